"""PKD: imitate maps up to each channel's mean and scale (Cao et al., NeurIPS 2022).

The mean squared error of two standardised maps is, up to the factor (n - 1) / n of the unbiased
deviation, 2 (1 - r) with Pearson's r, so teacher and student may differ in family and scale of
activations. Departs from the released code in three places: maps are resized if height or width
differs (the code compares heights only), maps with other channels pass through a 1x1 convolution,
and a dead channel of the student is ignored: its gradient would be about 1e6 times any other's.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.alignment import MapLoss, MapSection, align_channels, is_two_stage
from compress.parts.cpu_arithmetic import OVER, ChannelStatistics, mean_and_deviation
from compress.parts.processes import mean_of_batch
from export.config import Levels, NonNegativeFloat, PositiveFloat

ONE_STAGE_WEIGHT, TWO_STAGE_WEIGHT = 10.0, 6.0


class PkdConfig(MapSection):
    """The levels in use, how map sizes are matched, and the weight."""

    type: Literal["pkd"]
    loss_weight: PositiveFloat | None = None  # None: 6 for a two-stage student, 10 for others
    levels: Levels = 4  # how many of the finest
    resize: Literal["student", "teacher"] = "student"  # the map that is resized
    epsilon: PositiveFloat = 1e-6  # added to every standard deviation
    dead_below: NonNegativeFloat = 1e-4  # standard deviation of a student's channel

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Pkd":
        """Return the loss for this pair."""
        return Pkd(self, student, teacher)


class Pkd(MapLoss[PkdConfig]):
    """One term: the squared error of standardised maps."""

    def __init__(self, config: PkdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        usual = TWO_STAGE_WEIGHT if is_two_stage(student) else ONE_STAGE_WEIGHT
        self.loss_weight = usual if config.loss_weight is None else config.loss_weight
        channels = self.levels.channels(student.channels, teacher.channels)
        self.aligners = align_channels(channels, bias=False)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002 - maps alone
        """Return `feature`, half the mean squared error of each level, summed over levels."""
        errors = []
        for align, i, j in zip(
            self.aligners, self.levels.student, self.levels.teacher, strict=True
        ):
            own, other = align(student.features[i]), teacher.features[j]
            # `LevelPairs.select` always resizes the student, and only by one cell.
            if self.config.resize == "student":
                own = resized(own, other)
            else:
                other = resized(other, own)
            errors.append(
                standardised_error(
                    own, other, epsilon=self.config.epsilon, dead_below=self.config.dead_below
                )
            )
        return {"feature": self.loss_weight * 0.5 * torch.stack(errors).sum()}


def resized(features: Tensor, like: Tensor) -> Tensor:
    """Return maps (B, C, H, W) at the height and width of `like`."""
    size = like.shape[-2:]
    if features.shape[-2:] == size:
        return features
    return functional.interpolate(features, size=size, mode="bilinear", align_corners=False)


def standardised_error(
    student: Tensor, teacher: Tensor, *, epsilon: float, dead_below: float
) -> Tensor:
    """Return the mean squared error of two maps (B, C, H, W) after (x - mean) / (std + epsilon).

    Mean and unbiased standard deviation are those of a channel over the batch and its cells. A
    channel in which the student's deviation is below `dead_below` adds 0 to the mean; maps with a
    single value per channel have no deviation and give 0.
    """
    own, other = mean_and_deviation(student), mean_and_deviation(teacher)
    if own.numbers < 2:
        return 0 * student.sum()
    error = _standardised(own, epsilon) - _standardised(other, epsilon)
    squares = error.square().sum(dim=OVER, keepdim=True)
    alive = own.deviation >= dead_below
    return mean_of_batch((squares * alive).sum() / student.numel(), len(student))


def _standardised(maps: ChannelStatistics, epsilon: float) -> Tensor:
    return maps.centred * (1 / (maps.deviation + epsilon))
