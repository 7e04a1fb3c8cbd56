"""RoIAlign (He et al. 2017) by two small matrix products.

Bilinear sampling with clamped borders is separable, so a patch is `rows @ map @ columns` with two
small matrices per box. That equals torchvision's `roi_align(aligned=True)` to rounding; its
backward pass is several times faster on a CPU, and its sums always come in the same order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.losses.parts.masks import stack_boxes

# Level (log2 of the stride) of an object of 224 x 224 pixels.
CANONICAL_SIDE_PX = 224
CANONICAL_LEVEL = 4
SAMPLES = 2  # per cell and axis


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
    stacked, picture = stack_boxes(boxes)
    level = pooling_levels(stacked, strides)
    # an empty sum keeps every map attached to the graph
    patches = [features[:0, :, :1, :1].expand(-1, -1, size, size) for features in maps]
    places = [level.new_zeros(0)]
    for index, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        chosen = (level == index).nonzero()[:, 0]
        if len(chosen):
            counts = torch.bincount(picture[chosen], minlength=len(boxes)).tolist()
            cells = stacked[chosen].to(features) / stride
            patches.append(_align(features, cells, counts, size))
            places.append(chosen)
    return torch.cat(patches)[torch.cat(places).argsort()]


def pool_every_level(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], size: int
) -> Tensor:
    """Return (G, L, C, size, size): each box from all maps; arguments as of `pool_instances`."""
    stacked, _ = stack_boxes(boxes)
    counts = [len(one) for one in boxes]
    patches = [
        _align(features, stacked.to(features) / stride, counts, size)
        for features, stride in zip(maps, strides, strict=True)
    ]
    return torch.stack(patches, dim=1)


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
