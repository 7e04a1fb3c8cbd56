"""KL: imitate the teacher's class distribution (Hinton et al. 2015), softened by a temperature.

On RoIs where both detectors have two stages, else on the dense class logits. Dense heads score each
class with a sigmoid of its own; the field nevertheless softens them by a softmax over the K logits
(LD's class term does), which is the default here; `scores: sigmoid` compares each class with its
complement instead, summed over classes. Summed over classes, averaged over rows.
"""

from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor

from compress.batch import Batch
from compress.detector import DetectorSpec, Knowledge, Outputs
from compress.losses.loss import DistillationLoss
from compress.losses.responses import divergence, two_way_divergence
from compress.losses.rows import RowChoice, check_rows, compares_rois, row_needs, select_rows
from compress.losses.schedule import LossSection


class KlConfig(LossSection):
    """How logits become distributions, and at which rows they are compared."""

    type: Literal["kl"]
    temperature: PositiveFloat = 1.0  # tau; the loss is multiplied by its square
    rows: RowChoice | None = None  # None: all RoIs, or the positive locations of a dense head
    scores: Literal["softmax", "sigmoid"] = "softmax"  # of dense heads; RoIs have a softmax
    roi_source: Literal["teacher", "student"] = "teacher"  # whose proposals both heads score

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return what to ask of both detectors."""
        return row_needs(student, teacher)

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Say what stands between these settings and this pair of detectors."""
        problems = check_rows(student, teacher, softmax=self.scores == "softmax")
        if self.scores == "sigmoid" and compares_rois(student, teacher):
            problems.append(
                "scores: sigmoid is for dense heads, but both detectors have two stages, whose "
                "box heads score by a softmax; use scores: softmax"
            )
        return problems

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Kl":
        """Return the loss for this pair."""
        return Kl(self, student, teacher)


class Kl(DistillationLoss):
    """One term over the rows of a batch."""

    def __init__(self, config: KlConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config.fixed_weight, config.needs(student, teacher))
        self.config = config

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `class`; 0 without rows."""
        rows = select_rows(student, teacher, batch, self.config.rows)
        compare = divergence if self.config.scores == "softmax" else two_way_divergence
        apart = compare(rows.student, rows.teacher, self.config.temperature)  # (R,)
        return {"class": apart.sum() / max(1, len(apart))}
