"""MSE: mean squared error between the pyramids' maps, the baseline of feature imitation.

Hint learning as in FitNets (Romero et al., ICLR 2015) on every level of the neck; a reference for
the cost and gain of the other losses on maps.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.alignment import AlignedLevels, MapSection
from compress.losses.parts.loss import DistillationLoss, Source
from compress.parts.processes import mean_of_batch


class MseConfig(MapSection):
    """Settings of MSE: the levels in use."""

    written_from: ClassVar[Source] = "formula"

    type: Literal["mse"]

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Mse":
        """Return the loss for this pair."""
        return Mse(self, student, teacher)


class Mse(DistillationLoss[MseConfig]):
    """One term; a 1x1 convolution where the channels differ."""

    def __init__(self, config: MseConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.maps = AlignedLevels(student, teacher, config.levels)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `feature`: the mean squared error of each level, summed over levels."""
        pairs = self.maps(student.features, teacher.features)
        error = torch.stack([functional.mse_loss(*pair) for pair in pairs]).sum()
        return {"feature": mean_of_batch(error, len(batch.images))}
