"""Acceptance of training on a GPU in minutes: cost of steps, loading, precisions, runtimes."""

from benchmarks.studies.gpu_acceptance.command import main

__all__ = ["main"]
