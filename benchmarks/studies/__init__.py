"""Development studies that drive the training side: gains, step cost, RoIAlign."""

from _slimdet_packages import require_own

require_own("compress")
