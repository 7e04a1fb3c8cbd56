"""ATSS (Zhang et al. 2020): positives chosen by each box's own statistics."""

from collections.abc import Sequence

import torch
from torch import Tensor

CANDIDATES_PER_LEVEL = 9


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU (...) of (..., 4) xyxy boxes, pair by pair."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (first, second)]
    return overlap / (areas[0] + areas[1] - overlap).clamp(min=1e-9)


def atss_match(
    centres: Tensor,
    anchors: Tensor,
    level_counts: Sequence[int],
    boxes: Sequence[Tensor],
) -> Tensor:
    """Match locations with boxes, all pictures at once.

    Per box, the 9 nearest centres of each level are candidates; those whose anchor overlaps the
    box by the candidates' mean + standard deviation, and whose centre is inside it by more than
    0.01 px, are positive. A location that several boxes claim takes the one of highest IoU.

    Args:
        centres: (P, 2) x, y of the locations, level-major.
        anchors: (P, 4) xyxy, one per location.
        level_counts: how many of the P locations each level has.
        boxes: B tensors (n, 4) xyxy; n may be 0.

    Returns:
        (B, P) int64: the index of the box in the boxes of all pictures concatenated, or -1.
    """
    count = len(centres)
    flat = torch.cat([anchors[:0], *(image_boxes.to(anchors) for image_boxes in boxes)])
    matched = torch.full((len(boxes) * count,), -1, dtype=torch.int64, device=anchors.device)
    if len(flat) == 0:
        return matched.view(len(boxes), count)
    image = torch.cat(
        [torch.full((len(b),), i, device=anchors.device) for i, b in enumerate(boxes)]
    )
    candidates, iou, threshold = atss_thresholds(centres, anchors, level_counts, flat)
    points = centres[candidates]
    margin = torch.minimum(points - flat[:, None, :2], flat[:, None, 2:] - points).amin(dim=2)
    positive = (iou >= threshold[:, None]) & (margin > 0.01)

    place = (candidates + image[:, None] * count).flatten()  # into (B * P)
    claim = iou.masked_fill(~positive, -1.0).flatten()
    best = claim.new_full(matched.shape, -1.0).scatter_reduce(0, place, claim, "amax")
    wins = (claim >= 0) & (claim == best[place])
    owner = torch.arange(len(flat), device=anchors.device)[:, None].expand_as(iou).flatten()
    # equal claims go to the later box, on every device
    matched = matched.scatter_reduce(0, place, owner.masked_fill(~wins, -1), "amax")
    return matched.view(len(boxes), count)


def atss_thresholds(
    centres: Tensor, anchors: Tensor, level_counts: Sequence[int], boxes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each box's candidates, their overlaps with it, and the overlap of a positive.

    Args:
        centres: (P, 2) x, y of the locations, level-major.
        anchors: (P, 4) xyxy, one per location.
        level_counts: how many of the P locations each level has.
        boxes: (G, 4) xyxy.

    Returns:
        Indices (G, C) into the P locations, IoU (G, C), and thresholds (G,), the mean plus the
        standard deviation of the IoU.
    """
    candidates = _nearest(centres, level_counts, (boxes[:, :2] + boxes[:, 2:]) / 2)
    iou = paired_iou(anchors[candidates], boxes[:, None])
    threshold = iou.mean(dim=1)
    if iou.shape[1] > 1:
        threshold = threshold + iou.std(dim=1)
    return candidates, iou, threshold


def _nearest(centres: Tensor, level_counts: Sequence[int], points: Tensor) -> Tensor:
    """Return per point (G, 2) the indices (G, C) of the nearest centres of each level."""
    picks, start = [], 0
    for level in torch.split(centres, list(level_counts)):
        distance = (points[:, None] - level[None]).square().sum(dim=2)
        pick = distance.topk(min(CANDIDATES_PER_LEVEL, len(level)), dim=1, largest=False).indices
        picks.append(pick + start)
        start += len(level)
    return torch.cat(picks, dim=1)
