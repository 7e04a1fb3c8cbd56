"""RoIAlign (He et al. 2017) by two small matrix products.

Bilinear sampling with clamped borders is separable, so a patch is `rows @ map @ columns` with two
small matrices per box. That equals torchvision's `roi_align(aligned=True)` to rounding; its
backward pass is several times faster on a CPU, and its sums always come in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from compress.losses.parts.masks import stack_boxes
from compress.parts.processes import over_batch

# Level (log2 of the stride) of an object of 224 x 224 pixels.
CANONICAL_SIDE_PX = 224
CANONICAL_LEVEL = 4
SAMPLES = 2  # per cell and axis


@dataclass(frozen=True)
class LevelPatches:
    """The instances that are pooled from one level.

    Attributes:
        patches: (n, C_l, S, S), attached to the level's map also where n is 0.
        places: (n,) their indices among the G instances, ascending.
        counts: how many of them each picture has; they sum to n.
    """

    patches: Tensor
    places: Tensor
    counts: list[int]


@dataclass(frozen=True)
class Space:
    """Patches of both sides at the same instances, all of the same C channels.

    Attributes:
        student: (n, C, S, S), picture by picture.
        teacher: (n, C, S, S).
        counts: how many of them each picture has; they sum to n.
    """

    student: Tensor
    teacher: Tensor
    counts: list[int]

    def by_picture(self) -> list[tuple[Tensor, Tensor]]:
        """Return each picture's patches, the student's first."""
        sides = (torch.split(side, self.counts) for side in (self.student, self.teacher))
        return list(zip(*sides, strict=True))


def pooling_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Return for each xyxy box (G, 4) the index of the map, finest first, that it is pooled from.

    The rule of feature pyramids (Lin et al. 2017), clamped to the available strides.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    exponent = (CANONICAL_LEVEL + (area.sqrt() / CANONICAL_SIDE_PX + 1e-8).log2()).floor()
    coarser = torch.tensor(strides[1:], device=boxes.device, dtype=boxes.dtype).log2()
    return (exponent[:, None] >= coarser).sum(dim=1)


def pool_instances(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], size: int
) -> Tensor:
    """Return (G, C, size, size), one patch per box, picture by picture.

    Args:
        maps: L levels (B, C, H_l, W_l), finest first, C equal on all.
        strides: input pixels per cell, one per level.
        boxes: one (n, 4) xyxy tensor per picture, input pixels.
        size: cells of a patch along each side.
    """
    levels = pool_by_level(maps, strides, boxes, size)
    return in_order([level.patches for level in levels], levels)


def in_order(rows: Sequence[Tensor], levels: Sequence[LevelPatches]) -> Tensor:
    """Return one row per instance (G, ...) in their order, given each level's rows (n, ...)."""
    return torch.cat(list(rows))[torch.cat([level.places for level in levels]).argsort()]


def pool_by_level(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], size: int
) -> list[LevelPatches]:
    """Return the L levels' patches; arguments as of `pool_instances`, but any channels."""
    stacked, picture = stack_boxes(boxes)
    level = pooling_levels(stacked, strides)
    found = []
    for index, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        chosen = (level == index).nonzero()[:, 0]
        if len(chosen):
            counts: list[int] = torch.bincount(picture[chosen], minlength=len(boxes)).tolist()
            patches = _align(features, stacked[chosen].to(features) / stride, counts, size)
        else:
            # an empty sum keeps every map attached to the graph
            counts = [0] * len(boxes)
            patches = features[:0, :, :1, :1].expand(-1, -1, size, size)
        found.append(LevelPatches(patches, chosen, counts))
    return found


def pool_spaces(
    maps: Sequence[tuple[Tensor, Tensor]],
    strides: Sequence[int],
    boxes: Sequence[Tensor],
    size: int,
) -> list[Space]:
    """Pool the same instances from the maps of both sides.

    Levels of equal channels share one space, as a head that all levels share requires it. Where
    channels differ, each level has a head, and so a space, of its own: its instances can be
    compared with one another and with the other side's, but not with those of another level.

    Args:
        maps: L pairs (B, C_l, H_l, W_l), finest first, the student's adapted to the teacher's C_l.
        strides: input pixels per cell, one per level.
        boxes: one (n, 4) xyxy tensor per picture, input pixels.
        size: cells of a patch along each side.

    Returns:
        One space of all G instances, or one per level.
    """
    sides = list(zip(*maps, strict=True))
    if len({other.shape[1] for _, other in maps}) == 1:
        own, other = (pool_instances(side, strides, boxes, size) for side in sides)
        return [Space(own, other, [len(one) for one in boxes])]
    levels = zip(*(pool_by_level(side, strides, boxes, size) for side in sides), strict=True)
    return [Space(own.patches, other.patches, own.counts) for own, other in levels]


def join_spaces(spaces: Sequence[Space]) -> Space:
    """Return spaces of equal channels as one, picture by picture, and in a picture by space."""
    pictures = (space.by_picture() for space in spaces)
    parts = [part for picture in zip(*pictures, strict=True) for part in picture]
    own, other = (torch.cat(side) for side in zip(*parts, strict=True))
    counts = [sum(found) for found in zip(*(space.counts for space in spaces), strict=True)]
    return Space(own, other, counts)


def instance_error(spaces: Sequence[Space], *, over_channels: bool = False) -> Tensor:
    """Return the squared error of patches: sum over channels, mean over instances and cells.

    Where the spaces differ in channels, an instance's sum is multiplied by their mean count over
    its own, so that instances of all levels weigh alike; with equal channels the factor is 1.

    Args:
        spaces: spaces of one batch.
        over_channels: also take the mean over channels.
    """
    width = fmean(space.student.shape[1] for space in spaces)
    sums, cells = [], 0
    for space in spaces:
        count, channels, height, across = space.student.shape
        error = (space.student - space.teacher).square().sum()
        sums.append(error * (width / channels))
        cells += count * height * across
    return over_batch(torch.stack(sums).sum(), cells * (width if over_channels else 1))


def pool_every_level(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], size: int
) -> Tensor:
    """Return (G, L, C, size, size): each box from all maps; arguments as of `pool_instances`."""
    return torch.stack(pool_all(maps, strides, boxes, size), dim=1)


def pool_all(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], size: int
) -> list[Tensor]:
    """Return L tensors (G, C_l, size, size): each box from all maps, of any channels."""
    stacked, _ = stack_boxes(boxes)
    counts = [len(one) for one in boxes]
    return [
        _align(features, stacked.to(features) / stride, counts, size)
        for features, stride in zip(maps, strides, strict=True)
    ]


def _align(features: Tensor, boxes: Tensor, counts: list[int], size: int) -> Tensor:
    """Return (n, C, size, size) patches of one level (B, C, H, W).

    Args:
        features: the level's maps.
        boxes: (n, 4) xyxy in cells, picture by picture.
        counts: how many of the boxes each picture has.
        size: cells of a patch along each side.
    """
    height, width = features.shape[-2:]
    rows = _weights(boxes[:, 1], boxes[:, 3], size, height)  # (n, size, H)
    columns = _weights(boxes[:, 0], boxes[:, 2], size, width)  # (n, size, W)
    patches = []
    for level, down, across in zip(
        features.permute(0, 2, 3, 1),
        torch.split(rows, counts),
        torch.split(columns, counts),
        strict=True,
    ):
        strips = torch.einsum("nsh,hwc->nswc", down, level)
        patches.append(torch.einsum("ntw,nswc->ncst", across, strips))
    return torch.cat(patches)


def _weights(low: Tensor, high: Tensor, size: int, cells: int) -> Tensor:
    """Return (n, size, cells): weight of each cell in each bin between `low` and `high`.

    Each bin averages two samples; a sample interpolates its two neighbours linearly, is clamped at
    the border, and is 0 more than one cell outside the map.
    """
    steps = (torch.arange(size * SAMPLES, device=low.device, dtype=low.dtype) + 0.5) / (
        size * SAMPLES
    )
    points = low[:, None] - 0.5 + (high - low)[:, None] * steps  # (n, size * SAMPLES), cell centres
    inside = (points >= -1) & (points <= cells)
    centres = torch.arange(cells, device=low.device, dtype=low.dtype)
    reach = (1 - (points.clamp(0, cells - 1)[..., None] - centres).abs()).clamp(min=0)
    weights = reach * inside[..., None]
    return weights.view(-1, size, SAMPLES, cells).mean(dim=2)
