"""DIST: match correlations instead of values (Huang et al., NeurIPS 2022).

Correlations are taken over the classes of each row (inter) and over the rows of each class (intra).
Rows are RoIs where both detectors have two stages, else locations of the dense head, with a
softmax over the K logits.
"""

from typing import Literal

import torch
from torch import Tensor

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.loss import check_weights, weigh
from compress.losses.parts.rows import RowLoss, RowSection
from compress.parts.processes import over_batch, process_count, sum_over_processes
from export.config import NonNegativeFloat

EPSILON = 1e-8


class DistConfig(RowSection):
    """Weights of both relations, and the choice of rows."""

    type: Literal["dist"]
    inter_weight: NonNegativeFloat = 1.0
    intra_weight: NonNegativeFloat = 2.0

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = super().check(student, teacher)
        return problems + check_weights(self.inter_weight, self.intra_weight)

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Dist":
        """Return the loss for this pair."""
        return Dist(self, student, teacher)


class Dist(RowLoss[DistConfig]):
    """Two terms over the rows of a batch."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `inter` and `intra`; both are 0 without rows, `intra` also for a single row."""
        config = self.config
        rows = self.select(student, teacher, batch)
        own = (rows.student / config.temperature).softmax(dim=1)
        other = (rows.teacher / config.temperature).softmax(dim=1)
        square = config.temperature**2
        inter = over_batch(square * uncorrelated(own, other).sum(), len(own))
        intra = square * uncorrelated_classes(own, other).mean()
        return weigh({"inter": (config.inter_weight, inter), "intra": (config.intra_weight, intra)})


def uncorrelated(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - Pearson's correlation along each row (R, C), (R,).

    A row of equal entries has no correlation: it counts as 1 and has no gradient.
    """
    own = student - student.mean(dim=1, keepdim=True)
    other = teacher - teacher.mean(dim=1, keepdim=True)
    cosine: Tensor = (own * other).sum(dim=1) / (own.norm(dim=1) * other.norm(dim=1) + EPSILON)
    return 1 - cosine


def uncorrelated_classes(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - the correlation of each class (R, C) over the batch's rows, (C,); 0 of no row."""
    if process_count() == 1:
        return uncorrelated(student.T, teacher.T) if len(student) else student.sum(dim=0)
    totals = torch.stack([student.sum(dim=0), teacher.sum(dim=0)])
    counted = torch.cat([totals, totals.new_full((1, totals.shape[1]), len(student))])
    own_sum, other_sum, counts = sum_over_processes(counted)
    own = student - own_sum / counts.clamp(min=1)
    other = teacher - other_sum / counts.clamp(min=1)
    products = torch.stack([(own * other).sum(0), own.square().sum(0), other.square().sum(0)])
    product, *squares = sum_over_processes(products)
    # a class without variation has a norm of 0, where the root's slope is infinite
    norms = [square.where(square > 0, 1.0).sqrt() * (square > 0) for square in squares]
    cosine: Tensor = product / (norms[0] * norms[1] + EPSILON)
    apart: Tensor = (1 - cosine) * (counts > 0)
    return apart
