"""A metric as a user would add it: one function in one file."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.metric import CocoResult, MetricValues
from benchmarks.data.image_set import GroundTruth


def boxes_metric(
    results: Sequence[CocoResult], ground_truth: GroundTruth, artifact: Path, /
) -> MetricValues:
    """Count detections, labelled objects and bytes of the artifact."""
    return MetricValues(
        values={
            "detections": float(len(results)),
            "objects": float(len(ground_truth["annotations"])),
            "bytes": float(artifact.stat().st_size),
        }
    )
