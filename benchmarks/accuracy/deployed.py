"""Accuracy at the deployed score threshold, without detections below it."""

from collections.abc import Sequence

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.metric import CocoResult
from benchmarks.data.image_set import GroundTruth
from benchmarks.record import Record


class Deployed(Record):
    """COCO's metrics of the detections at or above a score threshold.

    Attributes:
        score_threshold: the lowest score that counts.
        ap: the twelve of `COCO_NAMES`.
        detections_per_picture: mean over all pictures.
    """

    score_threshold: float
    ap: dict[str, float | None]
    detections_per_picture: float


def deployed_accuracy(
    results: Sequence[CocoResult], ground_truth: GroundTruth, score_threshold: float
) -> Deployed:
    """Compute COCO's metrics of the results at or above the threshold.

    AP is lower than COCO's, which also counts low-scored boxes; the difference is due to the recall
    lost to the threshold.
    """
    kept = [result for result in results if result["score"] >= score_threshold]
    return Deployed(
        score_threshold=score_threshold,
        ap=coco_map(kept, ground_truth).values,
        detections_per_picture=len(kept) / max(1, len(ground_truth["images"])),
    )
