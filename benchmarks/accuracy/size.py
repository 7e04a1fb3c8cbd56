"""Size of an artifact on disk."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.metric import CocoResult, MetricValues
from benchmarks.data.image_set import GroundTruth
from export.errors import ExportError


def size_metric(
    _results: Sequence[CocoResult], _ground_truth: GroundTruth, artifact: Path, /
) -> MetricValues:
    """Return `size_mb` as a metric; see `size_mb`."""
    return MetricValues(values={"size_mb": size_mb(artifact)})


def size_mb(artifact: Path) -> float:
    """Return the size of one file in megabytes (1e6 bytes).

    Raises:
        ExportError: the file does not exist.
    """
    if not artifact.is_file():
        raise ExportError(f"{artifact}: no such file; export the model first")
    return artifact.stat().st_size / 1e6
