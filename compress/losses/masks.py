"""Which cells of a feature map belong to an object (DeFeat's rule, float32 box arithmetic)."""

from collections.abc import Sequence

import torch
from torch import Tensor

# A box of this side, in pixels, is where level 0 ends and level 1 begins at twice of it; the rule
# is the same whatever the finest stride.
LEVEL_SCALE_PX = 56.0


def stack_boxes(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return all boxes as (M, 4) float32 and the (M,) index of each one's picture."""
    stacked = torch.cat([one.reshape(-1, 4) for one in boxes]).float()
    counts = torch.tensor([one.shape[0] for one in boxes], device=stacked.device)
    pictures = torch.arange(len(boxes), device=stacked.device)
    index = torch.repeat_interleave(pictures, counts, output_size=stacked.shape[0])
    return stacked, index


def box_levels(boxes: Tensor, levels: int) -> Tensor:
    """Return the one level (M,) in 0..levels-1 that each xyxy box (M, 4) belongs to."""
    side = ((boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)).sqrt()
    return (side / LEVEL_SCALE_PX + 1e-6).log2().floor().clamp(0, levels - 1).long()


def level_masks(
    boxes: Sequence[Tensor], strides: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """Mark each box on the level of its size alone.

    Args:
        boxes: one (n, 4) xyxy tensor per picture, input pixels.
        strides: input pixels per cell of the L levels, finest first.
        sizes: height and width in cells of the L levels.

    Returns:
        L bool masks (B, H_l, W_l); a picture without boxes is False everywhere.
    """
    stacked, picture = stack_boxes(boxes)
    own = box_levels(stacked, len(strides))
    return [
        rasterize(stacked, picture, own == level, len(boxes), stride, size)
        for level, (stride, size) in enumerate(zip(strides, sizes, strict=True))
    ]


def union_mask(boxes: Sequence[Tensor], stride: int, size: tuple[int, int]) -> Tensor:
    """Mark every box on one grid of `size` cells; return a bool mask (B, H, W)."""
    stacked, picture = stack_boxes(boxes)
    every = torch.ones_like(picture, dtype=torch.bool)
    return rasterize(stacked, picture, every, len(boxes), stride, size)


def rasterize(
    boxes: Tensor,
    picture: Tensor,
    chosen: Tensor,
    pictures: int,
    stride: int,
    size: tuple[int, int],
) -> Tensor:
    """Mark the cells of the chosen boxes.

    Corners are truncated to cells and clipped, and the end is exclusive; a box that then has no
    width or no height marks the single cell of its upper left corner.

    Args:
        boxes: (M, 4) float32 xyxy, input pixels.
        picture: (M,) index of each box's picture.
        chosen: (M,) bool.
        pictures: B.
        stride: input pixels per cell.
        size: H and W in cells.

    Returns:
        (B, H, W) bool.
    """
    height, width = size
    x1, y1, x2, y2 = (boxes / stride).trunc().long().unbind(1)
    x1, y1 = x1.clamp(min=0), y1.clamp(min=0)
    x2, y2 = x2.clamp(max=width), y2.clamp(max=height)
    thin = (x1 == x2) | (y1 == y2)
    x1 = torch.where(thin, x1.clamp(max=width - 1), x1)
    y1 = torch.where(thin, y1.clamp(max=height - 1), y1)
    x2 = torch.where(thin, x1 + 1, x2)
    y2 = torch.where(thin, y1 + 1, y2)
    # A box wholly outside has its corners in the wrong order, and no cell.
    inside = (chosen & (x1 < x2) & (y1 < y2)).int()
    x1, y1 = x1.clamp(max=width), y1.clamp(max=height)
    x2, y2 = x2.clamp(min=0), y2.clamp(min=0)

    # Summing +1 and -1 at the four corners over rows and columns counts the boxes over each cell:
    # the cost is that of the map, however many boxes there are.
    corners = boxes.new_zeros((pictures, height + 1, width + 1), dtype=torch.int32)
    for y, x, sign in ((y1, x1, 1), (y1, x2, -1), (y2, x1, -1), (y2, x2, 1)):
        corners.index_put_((picture, y, x), sign * inside, accumulate=True)
    cover = corners.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    return cover[:, :height, :width] > 0
