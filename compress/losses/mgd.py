"""MGD: generate the teacher's map from a masked student's (Yang et al., ECCV 2022).

A new random mask is drawn in every step. Departs from the released code in the random numbers: they
depend on the seed, the step and the picture, not on its position in the batch, so that neither the
order of the pictures nor a resumed run changes them.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.alignment import AlignedLevels, MapSection, is_two_stage
from compress.losses.parts.loss import DistillationLoss
from compress.parts.draws import picture_generators
from compress.parts.processes import over_batch
from export.config import Levels, PositiveFloat


class MgdConfig(MapSection):
    """Masked share and weight; None takes the published value for the student's kind.

    The published values are 2e-5, 0.65 and five levels for one-stage detectors, 5e-7, 0.45 and four
    levels for two-stage ones.
    """

    type: Literal["mgd"]
    loss_weight: PositiveFloat | None = None  # alpha
    masked: float | None = Field(default=None, ge=0, lt=1)  # lambda: masked share
    levels: Levels | None = None  # how many of the finest
    mask: Literal["cell", "channel"] = "cell"  # mask cells or whole channels

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Mgd":
        """Return the loss for this pair."""
        return Mgd(self, student, teacher)


class Mgd(DistillationLoss[MgdConfig]):
    """One term; a generator per level, and a 1x1 convolution where the channels differ."""

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
        """Set the step that seeds the mask."""
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
        sources = picture_generators(image_ids, f"mgd {self.step}")
        pictures = [torch.rand(sum(sizes), generator=source) for source in sources]
        levels = torch.split(torch.stack(pictures).to(maps[0].device), sizes, dim=1)
        return [level.reshape(-1, *shape) for level, shape in zip(levels, shapes, strict=True)]

    def generation_error(
        self, pairs: Sequence[tuple[Tensor, Tensor]], draws: Sequence[Tensor]
    ) -> Tensor:
        """Return the weighted error of the maps generated from the unmasked part.

        Args:
            pairs: L aligned student and teacher maps (B, C_l, H_l, W_l).
            draws: L tensors of uniform numbers that broadcast to the maps; see `draw`.
        """
        errors = []
        for generate, (own, other), drawn in zip(self.generators, pairs, draws, strict=True):
            visible = own * (drawn <= 1 - self.masked)
            errors.append((generate(visible) - other).square().sum())
        return self.loss_weight * over_batch(torch.stack(errors).sum(), len(pairs[0][0]))


def generator(channels: int) -> nn.Sequential:
    """Return the two convolutions that generate the masked part."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
    )
