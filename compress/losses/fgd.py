"""FGD: imitate attended regions and global relations (Yang et al., CVPR 2022).

The focal part weights the squared error by the teacher's spatial and channel attention, separately
for object and background cells; the global part compares the outputs of a context block on each
side. Departs from the released code in two places: boxes are scaled by the padded input, which the
map covers, instead of the unpadded picture, and the convolutions before a softmax over cells have
no bias, which would cancel. As in the code, every box is drawn on every level, about one cell
larger than the object, and the attention term is a sum over cells, so large maps dominate it.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from compress.batch import Batch, boxes_per_image
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.alignment import MapSection
from compress.losses.parts.levels import LevelPairs, listed, pair_levels
from compress.losses.parts.loss import DistillationLoss, check_weights, weigh
from compress.losses.parts.masks import between, largest_product, pad_boxes
from compress.parts.processes import over_batch
from export.config import Levels, NonNegativeFloat, Temperature


class FgdWeights(NamedTuple):
    """Weights of the terms, and the attention temperature."""

    alpha: float  # foreground
    beta: float  # background
    gamma: float  # attention
    lam: float  # relation
    temperature: float


TWO_STAGE = FgdWeights(5e-5, 2.5e-5, 5e-5, 5e-7, 0.5)
ONE_STAGE = FgdWeights(1e-3, 5e-4, 5e-4, 5e-6, 0.5)
BY_FAMILY = {
    "faster_rcnn": TWO_STAGE,
    "fcos": FgdWeights(1.6e-3, 8e-4, 8e-4, 8e-6, 0.8),
}
TWO_STAGE_LEVELS = 4  # the fifth is the fourth, pooled for large proposals


class FgdConfig(MapSection):
    """Weights of the four terms; defaults depend on the student's family."""

    type: Literal["fgd"]
    alpha: NonNegativeFloat | None = None  # foreground
    beta: NonNegativeFloat | None = None  # background
    gamma: NonNegativeFloat | None = None  # attention
    lam: NonNegativeFloat | None = None  # relation
    temperature: Temperature | None = None  # of both attentions
    levels: Levels | None = None  # the finest; default 4 for faster_rcnn, else all

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = super().check(student, teacher)
        if problems:
            return problems
        shared = pair_levels(student, teacher)
        if self.levels is not None and self.levels > len(shared.strides):
            problems.append(
                f"levels: {self.levels} is more than the {len(shared.strides)} that both have, of "
                f"strides {listed(shared.strides)}; ask for fewer or leave levels out"
            )
        weights = self.weights(student)
        problems += check_weights(*weights[:4])
        narrowest = min(teacher.channels[index] for index in self.pairs(student, teacher).teacher)
        if weights.lam and narrowest < 2:
            problems.append(
                "the relation term halves the teacher's channels and needs 2 of them, but a level "
                f"has {narrowest}; set lam: 0 or use a wider teacher"
            )
        return problems

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Fgd":
        """Return the loss for this pair."""
        return Fgd(self, student, teacher)

    def weights(self, student: DetectorSpec) -> FgdWeights:
        """Return the weights, with the defaults of the student's family for those not set."""
        usual = BY_FAMILY.get(student.family, ONE_STAGE)._asdict()
        return FgdWeights(
            **{
                name: default if getattr(self, name) is None else getattr(self, name)
                for name, default in usual.items()
            }
        )

    def pairs(self, student: DetectorSpec, teacher: DetectorSpec) -> LevelPairs:
        """Pair the levels in use, the finest of those that both have."""
        shared = pair_levels(student, teacher)
        count = TWO_STAGE_LEVELS if student.family == "faster_rcnn" else len(shared.strides)
        count = count if self.levels is None else self.levels
        return LevelPairs(shared.strides[:count], shared.student[:count], shared.teacher[:count])


class Fgd(DistillationLoss[FgdConfig]):
    """Four terms, each a sum over levels; every level has its own weights."""

    def __init__(self, config: FgdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.pairs = config.pairs(student, teacher)
        self.weights = config.weights(student)
        self.levels = nn.ModuleList(
            FgdLevel(own, other, self.weights.temperature, relates=bool(self.weights.lam))
            for own, other in self.pairs.channels(student.channels, teacher.channels)
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `foreground`, `background`, `attention` and `relation`."""
        maps = self.pairs.select(student.features, teacher.features)
        boxes = boxes_per_image(batch.targets)
        # a map spans the padded input, which is the same for all pictures of a batch
        padded = [
            (other.shape[-2] * stride, other.shape[-1] * stride)
            for (_, other), stride in zip(maps, self.pairs.strides, strict=True)
        ]
        device = batch.images.device
        sizes = [torch.tensor(size, device=device).expand(len(boxes), 2) for size in padded]
        return self.compare(maps, boxes, sizes)

    def compare(
        self,
        maps: Sequence[tuple[Tensor, Tensor]],
        boxes: Sequence[Tensor],
        sizes: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Return the weighted terms on pictures of stated sizes.

        Args:
            maps: L student and teacher maps (B, C_l, H_l, W_l).
            boxes: one (n, 4) xyxy tensor per picture.
            sizes: L tensors (B, 2), the height and width of each picture that its map spans.
        """
        found: list[FgdTerms] = []
        for level, (own, other), size in zip(self.levels, maps, sizes, strict=True):
            masks = scale_masks(boxes, size, (other.shape[-2], other.shape[-1]))
            found.append(level(own, other, *masks))
        foreground, background, attention, relation = (
            over_batch(torch.stack(values).sum(), len(boxes)) for values in zip(*found, strict=True)
        )
        return weigh(
            {
                "foreground": (self.weights.alpha, foreground),
                "background": (self.weights.beta, background),
                "attention": (self.weights.gamma, attention),
                "relation": (self.weights.lam, relation),
            }
        )


class FgdTerms(NamedTuple):
    """The scalars of one level, before any weight."""

    foreground: Tensor
    background: Tensor
    attention: Tensor
    relation: Tensor


class FgdLevel(nn.Module):
    """The comparison of one pair of maps."""

    def __init__(self, student: int, teacher: int, temperature: float, *, relates: bool) -> None:
        super().__init__()
        self.temperature = temperature
        self.align: nn.Module = (
            nn.Identity() if student == teacher else nn.Conv2d(student, teacher, kernel_size=1)
        )
        self.student_context = GlobalContext(teacher) if relates else None
        self.teacher_context = GlobalContext(teacher) if relates else None

    def forward(
        self, student: Tensor, teacher: Tensor, foreground: Tensor, background: Tensor
    ) -> FgdTerms:
        """Compare maps (B, C, H, W) under two masks (B, H, W); each term is a sum over B."""
        student = self.align(student)
        spatial_s, channel_s = attention(student, self.temperature)
        spatial_t, channel_t = attention(teacher, self.temperature)
        difference = student - teacher
        error = torch.einsum("bchw,bc->bhw", difference.square(), channel_t) * spatial_t
        apart = (channel_s - channel_t).abs().sum() + (spatial_s - spatial_t).abs().sum()
        relation = error.new_zeros(())
        if self.student_context is not None and self.teacher_context is not None:
            context = self.student_context(student) - self.teacher_context(teacher)
            relation = (difference + context[..., None, None]).square().sum()
        return FgdTerms((foreground * error).sum(), (background * error).sum(), apart, relation)


class GlobalContext(nn.Module):
    """What a global context block (Cao et al. 2019) adds to every cell of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mask = nn.Conv2d(channels, 1, kernel_size=1, bias=False)
        last = nn.Conv2d(channels // 2, channels, kernel_size=1)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, channels // 2, kernel_size=1),
            nn.LayerNorm([channels // 2, 1, 1]),
            nn.ReLU(),
            last,
        )
        nn.init.kaiming_normal_(self.mask.weight, mode="fan_in")
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (B, C) for maps (B, C, H, W)."""
        share = self.mask(maps).flatten(1).softmax(dim=1)  # (B, H * W)
        context = torch.einsum("bcp,bp->bc", maps.flatten(2), share)
        added: Tensor = self.transform(context[..., None, None])
        return added[..., 0, 0]


def attention(maps: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the attention to cells (B, H, W) and to channels (B, C) of maps (B, C, H, W).

    Both are softmaxes of mean absolute values, scaled to an average of 1.
    """
    pictures, channels, height, width = maps.shape
    size = maps.abs()
    cells = (size.mean(dim=1).flatten(1) / temperature).softmax(dim=1) * (height * width)
    by_channel = (size.mean(dim=(2, 3)) / temperature).softmax(dim=1) * channels
    return cells.view(pictures, height, width), by_channel


def scale_masks(
    boxes: Sequence[Tensor], sizes: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Weight object cells by 1 / area of their box in cells; background cells sum to 1.

    A box reaches from the cell of its upper left corner to the one after its lower right corner,
    both included; its area is that before clipping. Where boxes overlap, the smaller one counts.

    Args:
        boxes: one (n, 4) xyxy tensor per picture.
        sizes: (B, 2) height and width of each picture, in the boxes' unit, that the grid spans.
        grid: H and W in cells.

    Returns:
        Foreground and background weights, both (B, H, W); a picture without a background cell
        has a background of 0.
    """
    height, width = grid
    padded, real = pad_boxes(boxes)  # (B, n, 4)
    high, wide = sizes.to(padded)[..., None].unbind(1)  # (B, 1)
    x1, y1, x2, y2 = padded.unbind(-1)
    left, right = (x1 / wide * width).floor(), (x2 / wide * width).ceil()
    top, bottom = (y1 / high * height).floor(), (y2 / high * height).ceil()
    inverse_area = real / ((bottom - top + 1) * (right - left + 1))
    rows = between(height, top, bottom + 1) * inverse_area[..., None]
    foreground = largest_product(rows, between(width, left, right + 1).to(rows))
    empty = (foreground == 0).to(rows)
    return foreground, empty / empty.sum(dim=(1, 2), keepdim=True).clamp(min=1)
