"""DKD: imitate the target class and the others apart (Zhao et al., CVPR 2022, Eq. 7).

On RoIs where both detectors have two stages (background is a class like others), else on the
positive locations of a dense head, a softmax over its K logits.
"""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn import functional

from compress.batch import Batch
from compress.detector import DetectorSpec, Knowledge, Outputs
from compress.losses.loss import DistillationLoss, weigh
from compress.losses.responses import divergence
from compress.losses.rows import RowChoice, check_rows, compares_rois, row_needs, select_rows
from compress.losses.schedule import LossSection


class DkdConfig(LossSection):
    """Weights of the two parts, and at which rows they are compared."""

    type: Literal["dkd"]
    temperature: PositiveFloat = 1.0  # tau; the loss is multiplied by its square
    target_weight: NonNegativeFloat = 1.0  # alpha
    non_target_weight: NonNegativeFloat = 8.0  # beta
    rows: RowChoice | None = None  # None: all RoIs, or the positive locations of a dense head
    roi_source: Literal["teacher", "student"] = "teacher"  # whose proposals both heads score

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return what to ask of both detectors."""
        return row_needs(student, teacher)

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Say what stands between these settings and this pair of detectors."""
        problems = check_rows(student, teacher)
        if self.rows == "all" and not compares_rois(student, teacher):
            problems.append(
                "rows: all needs a target class in every row, which the locations of a dense head "
                "lack; use rows: positive, or two detectors that provide rois"
            )
        if not self.target_weight and not self.non_target_weight:
            problems.append("all weights are 0, so nothing is imitated; give one or drop the loss")
        return problems

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Dkd":
        """Return the loss for this pair."""
        return Dkd(self, student, teacher)


class Dkd(DistillationLoss):
    """Two terms over the rows of a batch."""

    def __init__(self, config: DkdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config.fixed_weight, config.needs(student, teacher))
        self.config = config

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `target` and `non_target`; 0 without rows."""
        config = self.config
        rows = select_rows(student, teacher, batch, config.rows)
        assert rows.labels is not None  # `check` has refused rows without
        target, others = decoupled(rows.student, rows.teacher, rows.labels, config.temperature)
        count = max(1, len(rows.labels))
        return weigh(
            {
                "target": (config.target_weight, target.sum() / count),
                "non_target": (config.non_target_weight, others.sum() / count),
            }
        )


def decoupled(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the divergences (R,) of target against rest, and among the rest, by row.

    Both times temperature squared.

    Args:
        student: logits (R, C).
        teacher: logits (R, C), detached.
        labels: (R,) in 0..C-1.
        temperature: of both softmaxes.
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
