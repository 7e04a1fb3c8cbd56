"""KL: imitate the teacher's class distribution (Hinton et al. 2015), softened by a temperature.

Rows are RoIs where both detectors have two stages, else locations of the dense head. Dense heads
score each class by a sigmoid; as usual (in LD's class term, for example), the default is still a
softmax over the K logits. `scores: sigmoid` compares each class with its complement instead. The
divergence is summed over classes and averaged over rows.
"""

from typing import Literal

from torch import Tensor

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.responses import divergence, two_way_divergence
from compress.losses.parts.rows import RowLoss, RowSection, check_rows, compares_rois
from compress.parts.processes import over_batch


class KlConfig(RowSection):
    """How logits are normalised, and the choice of rows."""

    type: Literal["kl"]
    scores: Literal["softmax", "sigmoid"] = "softmax"  # for dense heads; RoIs use a softmax

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
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


class Kl(RowLoss[KlConfig]):
    """One term over the rows of a batch."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `class`; 0 without rows."""
        rows = self.select(student, teacher, batch)
        compare = divergence if self.config.scores == "softmax" else two_way_divergence
        apart = compare(rows.student, rows.teacher, self.config.temperature)  # (R,)
        return {"class": over_batch(apart.sum(), len(apart))}
