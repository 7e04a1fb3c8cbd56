"""AT: imitate spatial attention maps (Zagoruyko and Komodakis, ICLR 2017).

A map's attention is its mean square over channels, so student and teacher may have different
numbers of channels. Departs from the paper, as the OpenMMLab toolkit does: the squared difference
is averaged over all entries instead of taking a norm.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.alignment import MapLoss, MapSection
from compress.parts.processes import mean_of_batch


class AtConfig(MapSection):
    """Settings of AT: the levels in use."""

    type: Literal["at"]

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "At":
        """Return the loss for this pair."""
        return At(self, student, teacher)


class At(MapLoss[AtConfig]):
    """The attention term; it has no parameters."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `attention`: the mean squared difference of each level, summed over levels."""
        errors = [
            functional.mse_loss(attention(own), attention(other))
            for own, other in self.levels.select(student.features, teacher.features)
        ]
        return {"attention": mean_of_batch(torch.stack(errors).sum(), len(batch.images))}


def attention(maps: Tensor) -> Tensor:
    """Return (B, H * W), each picture's mean square over channels, scaled to length 1.

    A map (B, C, H, W) of zeros stays zero.
    """
    return functional.normalize(maps.square().mean(dim=1).flatten(1), dim=1)
