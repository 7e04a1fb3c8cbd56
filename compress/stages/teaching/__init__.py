"""What teachers do once, before the students train: boxes found, outputs stored."""
