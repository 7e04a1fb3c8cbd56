"""RKD: imitate the distances between pictures (Park et al., CVPR 2019).

The distance-wise loss is defined on one vector per picture, as a classifier has. A detector has
none, so each level of the pyramid gives one, the mean of its map over the cells: this choice is
ours. Channels and sizes may differ, for only distances meet. A batch needs three pictures or more:
a picture alone has no distance to another, and the one distance of two is its own mean, so that the
term is 0 whatever the models say.
"""

from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.alignment import MapSection, finest_pairs
from compress.losses.parts.distances import relative_distances
from compress.losses.parts.loss import DistillationLoss


class RkdConfig(MapSection):
    """Which levels count, and whether directions alone are compared."""

    type: Literal["rkd"]
    weight: PositiveFloat | Literal["auto"] = 25.0
    normalize: bool = True  # scale each vector to length 1 first
    levels: PositiveInt | None = None  # how many of the finest; None: all

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Rkd":
        """Return the loss for this pair."""
        return Rkd(self, student, teacher)


class Rkd(DistillationLoss):
    """One term, without parameters."""

    config: RkdConfig

    def __init__(self, config: RkdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.levels = finest_pairs(student, teacher, config.levels)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002 - maps alone
        """Return `distance`, summed over levels."""
        errors = []
        for i, j in zip(self.levels.student, self.levels.teacher, strict=True):
            own, other = (m.mean(dim=(2, 3)) for m in (student.features[i], teacher.features[j]))
            if self.config.normalize:
                own, other = functional.normalize(own, dim=1), functional.normalize(other, dim=1)
            errors.append(distance_error(own, other))
        return {"distance": torch.stack(errors).sum()}


def distance_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Compare the relative distances between the rows of (B, Cs) with those of (B, Ct).

    Huber's loss of width 1, averaged over all B * B entries, the zeros of the diagonal included.
    """
    return functional.smooth_l1_loss(relative_distances(student), relative_distances(teacher))
