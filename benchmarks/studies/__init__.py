"""Development studies that drive the training side: gains, step cost, RoIAlign."""
