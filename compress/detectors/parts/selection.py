"""From dense predictions to a fixed number of candidates, with static shapes only."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compress.detector import Candidates

MAX_CANDIDATES = 1000


def clip_to(boxes: Tensor, input_size: tuple[int, int]) -> Tensor:
    """Clip (..., 4) xyxy boxes to the input's height and width."""
    height, width = input_size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Take the rows `index` (B, k) of `values` (B, P, C)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def dense_candidates(
    scores: Tensor,
    deltas: Tensor,
    level_counts: Sequence[int],
    pre_nms: int,
    decode: Callable[[Tensor, Tensor], Tensor],
    input_size: tuple[int, int],
) -> Candidates:
    """Keep the best (location, class) pairs of each level, then the best of all.

    Args:
        scores: (B, P, K), level-major; or logits, and then those that are returned are logits.
        deltas: (B, P, 4) in the family's encoding.
        level_counts: how many of the P locations each level has.
        pre_nms: pairs kept per level.
        decode: (B, k, 4) deltas and (B, k) locations to xyxy boxes.
        input_size: height and width to clip to.
    """
    classes = scores.shape[-1]
    best_scores, best_pairs, start = [], [], 0
    for level_scores in torch.split(scores, list(level_counts), dim=1):
        flat = level_scores.flatten(1)
        top, index = flat.topk(min(pre_nms, flat.shape[1]), dim=1)
        best_scores.append(top)
        best_pairs.append(index + start * classes)
        start += level_scores.shape[1]
    top, pairs = torch.cat(best_scores, dim=1), torch.cat(best_pairs, dim=1)
    top, index = top.topk(min(MAX_CANDIDATES, top.shape[1]), dim=1)
    pairs = pairs.gather(1, index)
    locations = torch.div(pairs, classes, rounding_mode="floor")
    labels = (pairs - locations * classes).to(torch.int32)
    boxes = clip_to(decode(gather_rows(deltas, locations), locations), input_size)
    return Candidates(boxes, top, labels)


def best_candidates(
    scores: Tensor,
    deltas: Tensor,
    most: int,
    decode: Callable[[Tensor, Tensor], Tensor],
    input_size: tuple[int, int],
) -> Candidates:
    """Keep the best `most` (location, class) pairs of a head that needs no NMS.

    The locations with the best scores hold all of them, so that only their rows are sorted.

    Args:
        scores: (B, P, K); or logits, and then those that are returned are logits.
        deltas: (B, P, 4 * n) in the family's encoding.
        most: pairs kept.
        decode: (B, k, 4 * n) deltas and (B, k) locations to xyxy boxes.
        input_size: height and width to clip to.
    """
    classes = scores.shape[-1]
    _, rows = scores.amax(dim=2).topk(min(most, scores.shape[1]), dim=1)
    flat = gather_rows(scores, rows).flatten(1)
    top, pairs = flat.topk(min(most, flat.shape[1]), dim=1)
    places = torch.div(pairs, classes, rounding_mode="floor")
    labels = (pairs - places * classes).to(torch.int32)
    locations = rows.gather(1, places)
    boxes = clip_to(decode(gather_rows(deltas, locations), locations), input_size)
    return Candidates(boxes, top, labels)
