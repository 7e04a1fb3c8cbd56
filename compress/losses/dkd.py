"""DKD: decoupled divergence of target and non-target classes (Zhao et al., CVPR 2022, Eq. 7).

Rows are RoIs where both detectors have two stages (background is one of the classes), else the
positive locations of the dense head, with a softmax over the K logits.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.loss import check_weights, weigh
from compress.losses.parts.responses import divergence
from compress.losses.parts.rows import RowLoss, RowSection, compares_rois
from compress.parts.processes import over_batch
from export.config import NonNegativeFloat


class DkdConfig(RowSection):
    """Weights of both parts, and the choice of rows."""

    type: Literal["dkd"]
    target_weight: NonNegativeFloat = 1.0  # alpha
    non_target_weight: NonNegativeFloat = 8.0  # beta

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = super().check(student, teacher)
        if self.rows == "all" and not compares_rois(student, teacher):
            problems.append(
                "rows: all needs a target class in every row, which the locations of a dense head "
                "lack; use rows: positive, or two detectors that provide rois"
            )
        return problems + check_weights(self.target_weight, self.non_target_weight)

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Dkd":
        """Return the loss for this pair."""
        return Dkd(self, student, teacher)


class Dkd(RowLoss[DkdConfig]):
    """Two terms over the rows of a batch."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `target` and `non_target`; 0 without rows."""
        config = self.config
        rows = self.select(student, teacher, batch)
        assert rows.labels is not None  # `check` refuses rows without labels
        target, others = decoupled(rows.student, rows.teacher, rows.labels, config.temperature)
        count = len(rows.labels)
        return weigh(
            {
                "target": (config.target_weight, over_batch(target.sum(), count)),
                "non_target": (config.non_target_weight, over_batch(others.sum(), count)),
            }
        )


def decoupled(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the divergences (R,) of target against rest and among the rest, one per row.

    Both are multiplied by the temperature squared.

    Args:
        student: logits (R, C).
        teacher: logits (R, C), detached.
        labels: (R,) in 0..C-1.
        temperature: temperature of both softmaxes.
    """
    is_target = functional.one_hot(labels, student.shape[1]).bool()
    rest = (len(labels), student.shape[1] - 1)
    own, other = student[~is_target].view(rest), teacher[~is_target].view(rest)
    # two logits whose softmax is (p_target, 1 - p_target)
    own_pair, other_pair = (
        torch.stack((logits[is_target] / temperature, (others / temperature).logsumexp(1)), dim=1)
        for logits, others in ((student, own), (teacher, other))
    )
    target = temperature**2 * divergence(own_pair, other_pair, 1.0)
    return target, divergence(own, other, temperature)
