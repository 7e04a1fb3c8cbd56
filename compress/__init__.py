"""The training side: recipe, data, detectors, losses, the loop."""

from _slimdet_packages import require_own

require_own("export", "benchmarks")
