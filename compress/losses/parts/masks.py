"""Object masks on feature maps by DeFeat's rules; box arithmetic is float32."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# The scale of the level rule in `box_levels`, in pixels; it does not depend on the finest stride.
LEVEL_SCALE_PX = 56.0
BOXES_AT_ONCE = 16  # per picture, when each needs a map of its own


def stack_boxes(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return all boxes as (M, 4) float32 and the (M,) index of each one's picture."""
    stacked = torch.cat([one.reshape(-1, 4) for one in boxes]).float()
    counts = torch.tensor([one.shape[0] for one in boxes], device=stacked.device)
    pictures = torch.arange(len(boxes), device=stacked.device)
    index = torch.repeat_interleave(pictures, counts, output_size=stacked.shape[0])
    return stacked, index


def box_levels(boxes: Tensor, levels: int) -> Tensor:
    """Return the one level (...) in 0..levels-1 that each xyxy box (..., 4) belongs to."""
    side = ((boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)).sqrt()
    return (side / LEVEL_SCALE_PX + 1e-6).log2().floor().clamp(0, levels - 1).long()


def level_masks(
    boxes: Sequence[Tensor], strides: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """Mark each box on the level of its size.

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


def nearest(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask (B, H, W) at the height and width of `like`, by nearest neighbour.

    Computed in integers: torch's float32 scale rounds to the wrong cell now and then.
    """
    height, width = like.shape[-2:]
    rows = torch.arange(height, device=mask.device) * mask.shape[1] // height
    columns = torch.arange(width, device=mask.device) * mask.shape[2] // width
    return mask[:, rows][:, :, columns]


def rasterize(
    boxes: Tensor,
    picture: Tensor,
    chosen: Tensor,
    pictures: int,
    stride: int,
    size: tuple[int, int],
) -> Tensor:
    """Mark the cells of the chosen boxes, those of `cell_ranges`.

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
    x1, y1, x2, y2 = cell_ranges(boxes, stride, size)
    # A box outside the map has its end before its start and marks no cell.
    inside = (chosen & (x1 < x2) & (y1 < y2)).int()
    x1, y1 = x1.clamp(max=width), y1.clamp(max=height)
    x2, y2 = x2.clamp(min=0), y2.clamp(min=0)

    # Cumulative sums of +1 and -1 at the four corners count the boxes over each cell, at a cost
    # that does not depend on the number of boxes.
    corners = boxes.new_zeros((pictures, height + 1, width + 1), dtype=torch.int32)
    for y, x, sign in ((y1, x1, 1), (y1, x2, -1), (y2, x1, -1), (y2, x2, 1)):
        corners.index_put_((picture, y, x), sign * inside, accumulate=True)
    cover = corners.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    return cover[:, :height, :width] > 0


def cell_ranges(
    boxes: Tensor, stride: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the first column and row of each box, and the column and row after its last.

    Corners are truncated to cells and clipped, and the end is exclusive; a box that then has no
    width or no height gets the single cell of its upper left corner.

    Args:
        boxes: (..., 4) float32 xyxy, input pixels.
        stride: input pixels per cell.
        size: H and W in cells.

    Returns:
        x1, y1, x2, y2, each (...) int64; a box wholly outside has its ends before its starts.
    """
    height, width = size
    x1, y1, x2, y2 = (boxes / stride).trunc().long().unbind(-1)
    x1, y1 = x1.clamp(min=0), y1.clamp(min=0)
    x2, y2 = x2.clamp(max=width), y2.clamp(max=height)
    thin = (x1 == x2) | (y1 == y2)
    x1 = torch.where(thin, x1.clamp(max=width - 1), x1)
    y1 = torch.where(thin, y1.clamp(max=height - 1), y1)
    x2 = torch.where(thin, x1 + 1, x2)
    y2 = torch.where(thin, y1 + 1, y2)
    return x1, y1, x2, y2


def pad_boxes(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return boxes as (B, n, 4) float32, n the largest count, and which are real (B, n).

    Padding is 0.
    """
    padded = pad_sequence([one.reshape(-1, 4).float() for one in boxes], batch_first=True)
    counts = torch.tensor([one.shape[0] for one in boxes], device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < counts[:, None]


def between(cells: int, start: Tensor, end: Tensor) -> Tensor:
    """Return which of `cells` cells lie in start..end, the end exclusive: (..., cells) bool."""
    cell = torch.arange(cells, device=start.device)
    return (cell >= start[..., None]) & (cell < end[..., None])


def largest_product(rows: Tensor, columns: Tensor) -> Tensor:
    """Draw separable box weights, rows times columns; overlaps take the maximum.

    Args:
        rows: (B, n, H), not negative.
        columns: (B, n, W), not negative.

    Returns:
        (B, H, W), the largest of the n products in each cell; 0 without boxes.
    """
    drawn = rows.new_zeros((rows.shape[0], rows.shape[2], columns.shape[2]))
    for some, others in zip(
        torch.split(rows, BOXES_AT_ONCE, dim=1),
        torch.split(columns, BOXES_AT_ONCE, dim=1),
        strict=True,
    ):
        if some.shape[1]:
            products = some[..., None] * others[..., None, :]  # (B, some, H, W)
            drawn = torch.maximum(drawn, products.amax(dim=1))
    return drawn
