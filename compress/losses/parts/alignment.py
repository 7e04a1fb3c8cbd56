"""The base of the losses on whole maps: checks, choice of levels, channel alignment."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from typing_extensions import TypeVar

from compress.detector import DetectorSpec
from compress.losses.parts.levels import LevelPairs, check_levels, pair_levels
from compress.losses.parts.loss import DistillationLoss, LossSection
from export.config import Levels


class MapSection(LossSection):
    """The base of the settings of losses on the maps of the finest levels."""

    levels: Levels | None = None  # how many of the finest; None: all

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        return check_levels(student, teacher)


MapConfigT_co = TypeVar("MapConfigT_co", bound=MapSection, covariant=True, default=MapSection)


class MapLoss(DistillationLoss[MapConfigT_co]):
    """The base of the losses on the maps of the finest levels; `levels` pairs them."""

    def __init__(self, config: MapConfigT_co, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.levels = finest_pairs(student, teacher, config.levels)


def is_two_stage(spec: DetectorSpec) -> bool:
    """Whether published defaults for two-stage detectors apply to this one."""
    return "rois" in spec.provides


def finest_pairs(student: DetectorSpec, teacher: DetectorSpec, count: int | None) -> LevelPairs:
    """Pair the levels by stride and keep the `count` finest, or all where there are fewer.

    Raises:
        RecipeError: they share no stride.
    """
    pairs = pair_levels(student, teacher)
    return replace(
        pairs,
        strides=pairs.strides[:count],
        student=pairs.student[:count],
        teacher=pairs.teacher[:count],
    )


def align_channels(channels: Sequence[tuple[int, int]], *, bias: bool = True) -> nn.ModuleList:
    """Return a 1x1 convolution per (student, teacher) channel count; identity where both are equal.

    Use no `bias` for a loss that is invariant to a constant added to a channel: the bias would get
    no gradient.
    """
    return nn.ModuleList(
        nn.Identity() if own == other else nn.Conv2d(own, other, kernel_size=1, bias=bias)
        for own, other in channels
    )


class AlignedLevels(nn.Module):
    """Pairs of maps, the student's brought to the teacher's channels and size."""

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        count: int | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.levels = finest_pairs(student, teacher, count)
        channels = self.levels.channels(student.channels, teacher.channels)
        self.aligners = align_channels(channels, bias=bias)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return L pairs of maps (B, C_l, H_l, W_l), finest first."""
        pairs = self.levels.select(student, teacher)
        return [
            (align(own), other) for align, (own, other) in zip(self.aligners, pairs, strict=True)
        ]
