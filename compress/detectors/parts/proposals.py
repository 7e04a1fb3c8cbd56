"""Both selections of a two-stage detector with static shapes: proposals, then candidates."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from compress.detector import Candidates
from compress.detectors.parts.nms_op import nms_keep
from compress.detectors.parts.roi_head import RPN_NMS_IOU
from compress.detectors.parts.selection import MAX_CANDIDATES, clip_to, gather_rows

MIN_PROPOSAL_SIDE = 1e-3  # pixels, as torchvision
MIN_BOX_SIDE = 1e-2


def propose(
    objectness: Tensor,
    deltas: Tensor,
    level_counts: Sequence[int],
    decode: Callable[[Tensor, Tensor], Tensor],
    input_size: tuple[int, int],
    *,
    pre_nms: int,
    post_nms: int,
) -> tuple[Tensor, Tensor]:
    """Return the best proposals: boxes (B, n, 4), clipped, and scores (B, n), -1 for padding.

    Args:
        objectness: (B, P) logits, level-major.
        deltas: (B, P, 4).
        level_counts: how many of the P anchors each level has.
        decode: (B, k, 4) deltas and (B, k) locations to xyxy boxes.
        input_size: height and width to clip to.
        pre_nms: kept per level before NMS.
        post_nms: kept of all levels after it.
    """
    all_boxes, all_scores, start = [], [], 0
    for logits in torch.split(objectness, list(level_counts), dim=1):
        top, index = logits.topk(min(pre_nms, logits.shape[1]), dim=1)
        index = index + start
        boxes = clip_to(decode(gather_rows(deltas, index), index), input_size)
        scores = _mask_small(boxes, top.sigmoid(), MIN_PROPOSAL_SIDE)
        # padding has the lowest score and so suppresses nothing
        keep = nms_keep(boxes, scores, RPN_NMS_IOU)
        all_boxes.append(boxes)
        all_scores.append(torch.where(keep, scores, -1.0))
        start += logits.shape[1]
    boxes, scores = torch.cat(all_boxes, dim=1), torch.cat(all_scores, dim=1)
    scores, index = scores.topk(min(post_nms, scores.shape[1]), dim=1)
    return gather_rows(boxes, index), scores


def roi_candidates(
    proposals: Tensor,
    proposal_scores: Tensor,
    class_logits: Tensor,
    deltas: Tensor,
    coder: BoxCoder,
    input_size: tuple[int, int],
) -> Candidates:
    """Return the best (proposal, class) pairs.

    Args:
        proposals: (B, n, 4) xyxy.
        proposal_scores: (B, n), -1 for padding.
        class_logits: (B, n, K + 1), background first.
        deltas: (B, n, (K + 1) * 4).
        coder: box coder of the second stage.
        input_size: height and width to clip to.
    """
    images, count, columns = class_logits.shape
    classes = columns - 1
    boxes = coder.decode_single(deltas.reshape(images * count, -1), proposals.reshape(-1, 4))
    boxes = clip_to(boxes.reshape(images, count, columns, 4)[:, :, 1:], input_size)
    scores = class_logits.softmax(dim=-1)[..., 1:]
    scores = _mask_small(boxes, scores, MIN_BOX_SIDE)
    scores = torch.where(proposal_scores.unsqueeze(-1) >= 0, scores, -1.0).flatten(1)
    scores, pairs = scores.topk(min(MAX_CANDIDATES, count * classes), dim=1)
    labels = pairs - torch.div(pairs, classes, rounding_mode="floor") * classes
    return Candidates(gather_rows(boxes.flatten(1, 2), pairs), scores, labels.to(torch.int32))


def _mask_small(boxes: Tensor, scores: Tensor, side: float) -> Tensor:
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.where((sides >= side).all(dim=-1), scores, -1.0)
