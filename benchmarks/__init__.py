"""Benchmarks: accuracy and latency of artifacts, and the report on both."""

from _slimdet_packages import require_own

require_own("export")
