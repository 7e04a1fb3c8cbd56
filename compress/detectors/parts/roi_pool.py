"""RoIAlign over a pyramid with static shapes, in two implementations.

Torchvision's `MultiScaleRoIAlign` sorts boxes by level, so its shapes depend on the boxes. `masked`
pools every box from every level and selects its level: bit for bit torchvision's result, at several
times the cost. `atlas` stacks the levels into one map and pools every box once, from its level's
rows: the same result up to rounding, with a single RoiAlign node.

Both take boxes inside the picture (0 <= x1 <= x2 <= width, the same for y) of any size, zero
included; proposals are clipped to it. Picture sizes are multiples of every stride.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

RoiAlignForm = Literal["atlas", "masked"]
POOLED = 7
SAMPLING_RATIO = 2


def pool(
    features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], form: RoiAlignForm
) -> Tensor:
    """Return (B * P, C, 7, 7) float32.

    Args:
        features: (B, C, H_l, W_l) levels, finest first.
        boxes: (B, P, 4) xyxy pixels inside the picture.
        strides: strides of the levels, each twice the one before.
        form: the implementation, see above.
    """
    maps = [feature.float() for feature in features]
    return (pool_atlas if form == "atlas" else pool_masked)(maps, boxes, strides)


def pool_masked(features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Pool from every level and keep each box's own; see `pool`."""
    rows = torch.cat((_pictures(boxes), boxes.reshape(-1, 4)), dim=1)
    level = choose_levels(boxes, strides).reshape(-1, 1, 1, 1)
    return torch.stack(
        [
            roi_align(feature, rows, POOLED, 1 / stride, SAMPLING_RATIO)
            * (level == step).to(feature.dtype)
            for step, (feature, stride) in enumerate(zip(features, strides, strict=True))
        ]
    ).sum(dim=0)


def pool_atlas(features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Pool once, from all levels in one map; see `pool`.

    A box thinner than a cell is pooled as if it were a cell wide, so at the lower and right border
    some of its samples lie outside the map. Torchvision counts those as 0; here they would fall on
    another level. Such a box is moved inwards (its samples within the map all have the border's
    value) and the share of outside samples is multiplied out.
    """
    atlas, tops = stack_levels(features)
    per_level = [
        (1 / stride, feature.shape[3], feature.shape[2], 0, top)
        for stride, feature, top in zip(strides, features, tops, strict=True)
    ]
    table = torch.tensor(per_level, dtype=boxes.dtype, device=boxes.device)
    own = table.index_select(0, choose_levels(boxes, strides).reshape(-1))
    limit, place = own[:, 1:3], own[:, 3:]  # (R, 2) x and y, cells
    cells = boxes.reshape(-1, 4) * own[:, :1]
    start, length = cells[:, :2], (cells[:, 2:] - cells[:, :2]).clamp(min=1)
    across, down = _share_inside(start, length, limit).unbind(dim=1)  # (R, 7)
    start = torch.minimum(start, limit - 1) + place
    rows = torch.cat((_pictures(boxes), start, start + length), dim=1)
    counted = down.unsqueeze(2) * across.unsqueeze(1)
    pooled: Tensor = roi_align(atlas, rows, POOLED, 1.0, SAMPLING_RATIO)
    return pooled * counted.unsqueeze(1)


def stack_levels(features: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Return all levels below one another, (B, C, H, W), and the first row of each.

    Each has its last column and row once more: a sample between the centre of the last cell and
    the border then reads what torchvision, which stops at that centre, reads. Zeros fill the width.
    """
    widest = max(feature.shape[3] for feature in features)
    rows: list[Tensor] = []
    tops, top = [], 0
    for feature in features:
        wide = torch.cat((feature, feature[..., -1:]), dim=3)
        wide = functional.pad(wide, (0, widest - feature.shape[3]))
        rows += [wide, wide[:, :, -1:]]
        tops.append(top)
        top += feature.shape[2] + 1
    return torch.cat(rows, dim=2), tops


def choose_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Return (B, P) int64, the level of each box as in torchvision: 224 pixels belong to 16."""
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    finest, coarsest = round(math.log2(strides[0])), round(math.log2(strides[-1]))
    # the floor keeps the logarithm of a box without area finite, and one that is NaN in the table
    area = torch.where(area > 1e-12, area, 1e-12)
    level = torch.floor(4 + torch.log2(area.sqrt() / 224) + 1e-6)
    return (level.clamp(finest, coarsest) - finest).to(torch.int64)


def _share_inside(start: Tensor, length: Tensor, limit: Tensor) -> Tensor:
    """Return (R, 2, 7), the share of each bin's samples that lie within the map, per axis."""
    bins = torch.arange(POOLED, dtype=start.dtype, device=start.device).view(-1, 1)
    within = torch.arange(SAMPLING_RATIO, dtype=start.dtype, device=start.device) + 0.5
    size = (length / POOLED)[..., None, None]
    samples = start[..., None, None] + bins * size + within * size / SAMPLING_RATIO
    return (samples <= limit[..., None, None]).to(start.dtype).mean(dim=3)


def _pictures(boxes: Tensor) -> Tensor:
    """Return (B * P, 1), the picture of each box: RoIAlign's first column."""
    images, count = boxes.shape[:2]
    index = torch.arange(images, device=boxes.device, dtype=boxes.dtype)
    return index.view(-1, 1, 1).expand(-1, count, 1).reshape(-1, 1)
