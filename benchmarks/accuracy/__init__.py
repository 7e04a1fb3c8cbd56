"""Accuracy of detections against ground truth: the metrics and their computation."""

from benchmarks.accuracy.coco_map import coco_metric
from benchmarks.accuracy.metric import Metric
from benchmarks.accuracy.size import size_metric

COCO, SIZE = "coco_map", "size_mb"  # the two that have columns of their own in the report

# Evaluation computes all of these for every row and writes them to `metrics` in report.json.
METRICS: dict[str, Metric] = {
    COCO: coco_metric,
    SIZE: size_metric,
}
