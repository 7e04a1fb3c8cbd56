"""Accuracy of what is left when an artifact is used as shipped: above its score threshold."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy.coco_map import CocoResult, coco_map


def deployed_accuracy(
    results: Sequence[CocoResult], ground_truth: Mapping[str, Any], score_threshold: float
) -> dict[str, Any]:
    """`deployed` of a row of `report.json`: COCO's judgement of results at or above the threshold.

    AP is lower here than by COCO's rules, which count the low-scored boxes too: this is the recall
    that the threshold costs.
    """
    kept = [result for result in results if result["score"] >= score_threshold]
    metrics = coco_map(kept, ground_truth)
    return {
        "score_threshold": score_threshold,
        "ap": metrics.values,
        "detections_per_picture": len(kept) / max(1, len(ground_truth["images"])),
    }
