"""MGD: generate the teacher's map from a masked student's (Yang et al., ECCV 2022).

The cells that are hidden are drawn anew in every step. Differs from the released code in how: the
draw belongs to the seed, the step and the picture, not to its place in the batch, so that neither
the order of the pictures nor an interruption changes it.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.alignment import AlignedLevels, MapSection, is_two_stage
from compress.losses.parts.loss import DistillationLoss


class MgdConfig(MapSection):
    """How much is hidden, and how much it weighs; None takes what is published for the student.

    The published values are 2e-5, 0.65 and five levels for one-stage detectors, 5e-7, 0.45 and four
    levels for two-stage ones.
    """

    type: Literal["mgd"]
    loss_weight: PositiveFloat | None = None  # alpha
    masked: float | None = Field(default=None, ge=0, lt=1)  # lambda: the share that is hidden
    levels: PositiveInt | None = None  # how many of the finest
    mask: Literal["cell", "channel"] = "cell"  # hide cells in all channels, or channels as a whole

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Mgd":
        """Return the loss for this pair."""
        return Mgd(self, student, teacher)


class Mgd(DistillationLoss):
    """One term; a generator per level, and a 1x1 convolution where the channels differ."""

    config: MgdConfig

    def __init__(self, config: MgdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        weight, masked, levels = (5e-7, 0.45, 4) if is_two_stage(student) else (2e-5, 0.65, 5)
        self.loss_weight = weight if config.loss_weight is None else config.loss_weight
        self.masked = masked if config.masked is None else config.masked
        self.maps = AlignedLevels(student, teacher, config.levels or levels)
        self.generators = nn.ModuleList(
            generator(teacher.channels[j]) for j in self.maps.levels.teacher
        )
        self.step = 0

    def at(self, step: int, total: int) -> None:  # noqa: ARG002 - of the base class
        """Learn the step, which chooses the draw."""
        self.step = step

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `feature`, summed over levels."""
        pairs = self.maps(student.features, teacher.features)
        draws = self.draw([other for _, other in pairs], batch.image_ids)
        return {"feature": self.generation_error(pairs, draws)}

    def draw(self, maps: Sequence[Tensor], image_ids: Sequence[int]) -> list[Tensor]:
        """Return uniform numbers for L maps (B, C, H, W): (B, 1, H, W), or (B, C, 1, 1) each."""
        by_cell = self.config.mask == "cell"
        shapes = [(1, *level.shape[-2:]) if by_cell else (level.shape[1], 1, 1) for level in maps]
        sizes = [math.prod(shape) for shape in shapes]
        pictures = []
        for image_id in image_ids:
            seed = hash((torch.initial_seed(), self.step, image_id)) % 2**63
            source = torch.Generator().manual_seed(seed)
            pictures.append(torch.rand(sum(sizes), generator=source))
        levels = torch.split(torch.stack(pictures).to(maps[0].device), sizes, dim=1)
        return [level.reshape(-1, *shape) for level, shape in zip(levels, shapes, strict=True)]

    def generation_error(
        self, pairs: Sequence[tuple[Tensor, Tensor]], draws: Sequence[Tensor]
    ) -> Tensor:
        """Return the weighted error of maps generated from what the draws leave visible.

        Args:
            pairs: L aligned student's and teacher's maps (B, C_l, H_l, W_l).
            draws: L tensors of numbers in 0..1 that broadcast to them; see `draw`.
        """
        errors = []
        for generate, (own, other), drawn in zip(self.generators, pairs, draws, strict=True):
            visible = own * (drawn <= 1 - self.masked)
            errors.append((generate(visible) - other).square().sum() / own.shape[0])
        return self.loss_weight * torch.stack(errors).sum()


def generator(channels: int) -> nn.Sequential:
    """Return the two convolutions that fill in what is hidden."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
    )
