"""BCKD: binary cross entropy per class, and GIoU between boxes (Yang et al., ICCV 2023).

Both terms use every location of the dense head that the task loss does not ignore. The cross
entropy of a class is weighted by the gap between the two scores, the box term by the largest gap
at its location. With two-stage detectors the dense heads are the proposal networks, with one class.
Departs from the released code in one place: levels without positives are included.
"""

from typing import ClassVar, Literal

from torch import Tensor

from compress.batch import Batch
from compress.detector import DetectorSpec, Knowledge, Outputs
from compress.losses.parts.levels import check_classes, check_locations
from compress.losses.parts.loss import DistillationLoss, LossSection, check_weights, weigh
from compress.losses.parts.responses import (
    IGNORED,
    focal_cross_entropy,
    giou_error,
    score_gap,
)
from compress.parts.processes import over_batch
from export.config import NonNegativeFloat


class BckdConfig(LossSection):
    """Weights of the class and the box term."""

    asks: ClassVar[frozenset[Knowledge]] = frozenset({"dense"})

    type: Literal["bckd"]
    class_weight: NonNegativeFloat = 1.0
    box_weight: NonNegativeFloat = 4.0
    beta: NonNegativeFloat = 1.0  # power of the gap in the class term

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = check_classes(student, teacher) + check_locations(student, teacher)
        return problems + check_weights(self.class_weight, self.box_weight)

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Bckd":
        """Return the loss for this pair."""
        return Bckd(self, student, teacher)


class Bckd(DistillationLoss[BckdConfig]):
    """A class and a box term over all locations, divided by the number of positive ones."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `class` and `box`."""
        own, other = student.dense, teacher.dense
        if own is None or other is None:
            raise ValueError("BCKD compares dense predictions; ask both detectors for `dense`")
        config = self.config
        matched = own.match(batch.targets)  # (B, P)
        counts = (matched != IGNORED).float()
        positives = (matched >= 0).sum()
        scores = other.class_logits.sigmoid()
        gap = score_gap(own.class_logits, scores)
        terms: dict[str, tuple[float, Tensor]] = {}
        if config.class_weight:
            value = focal_cross_entropy(own.class_logits, scores, gap, config.beta)
            terms["class"] = (config.class_weight, over_batch((counts * value).sum(), positives))
        if config.box_weight:
            value = box_term(own.boxes, other.boxes, gap, counts)
            terms["box"] = (config.box_weight, over_batch(value, positives))
        return weigh(terms)


def box_term(student: Tensor, teacher: Tensor, gap: Tensor, counts: Tensor) -> Tensor:
    """Return 1 - GIoU, summed with the largest gap of each location as its weight.

    Args:
        student: (..., 4) xyxy.
        teacher: (..., 4) xyxy, detached.
        gap: (..., K) between the scores; no gradient passes through it.
        counts: (...) 0 where a location is ignored, else 1.
    """
    weight = gap.detach().amax(dim=-1) * counts
    return (weight * giou_error(student, teacher)).sum()
