"""AT: imitate where the maps are strong (Zagoruyko and Komodakis, ICLR 2017).

The attention of a map is its mean square over channels, so the two may have any number of them.
Departs from the paper in the mean over all entries instead of a norm, as the OpenMMLab toolkit has.
"""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.alignment import MapSection, finest_pairs
from compress.losses.parts.loss import DistillationLoss


class AtConfig(MapSection):
    """Which levels count."""

    type: Literal["at"]
    levels: PositiveInt | None = None  # how many of the finest; None: all

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "At":
        """Return the loss for this pair."""
        return At(self, student, teacher)


class At(DistillationLoss):
    """One term, without parameters."""

    config: AtConfig

    def __init__(self, config: AtConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.levels = finest_pairs(student, teacher, config.levels)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002 - maps alone
        """Return `attention`: the mean squared difference of each level, summed over levels."""
        errors = [
            functional.mse_loss(attention(own), attention(other))
            for own, other in self.levels.select(student.features, teacher.features)
        ]
        return {"attention": torch.stack(errors).sum()}


def attention(maps: Tensor) -> Tensor:
    """Return (B, H * W), each picture's mean square over channels, scaled to length 1.

    A map (B, C, H, W) of zeros stays zero.
    """
    return functional.normalize(maps.square().mean(dim=1).flatten(1), dim=1)
