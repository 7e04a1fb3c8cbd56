"""Assignment of ground truth boxes to anchors."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou

from compress.batch import Targets, boxes_per_image
from compress.detector import Dense


def overlap_mask(anchors: Tensor, boxes: Sequence[Tensor], threshold: float) -> Tensor:
    """Mark anchors that overlap a box by `threshold`, and each box's best ones.

    A box that touches no anchor marks none.

    Args:
        anchors: (P, 4) xyxy.
        boxes: one (n, 4) xyxy tensor per picture; n may be 0.
        threshold: least IoU of a positive.

    Returns:
        (B, P) bool.
    """
    masks = []
    for image_boxes in boxes:
        if len(image_boxes) == 0:
            masks.append(anchors.new_zeros(len(anchors), dtype=torch.bool))
            continue
        iou = box_iou(image_boxes.to(anchors), anchors)  # (n, P)
        best = iou.amax(dim=1, keepdim=True)
        masks.append(((iou >= threshold) | ((iou == best) & (best > 0))).any(dim=0))
    return torch.stack(masks)


def match_overlaps(matcher: Matcher, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return per anchor (P,) the index of its box among (n, 4), -1 for none, -2 to ignore."""
    if len(boxes) == 0:
        return torch.full((len(anchors),), -1, device=anchors.device)
    found: Tensor = matcher(box_iou(boxes.to(anchors), anchors))
    return found


def match_all(matcher: Matcher, anchors: Tensor, targets: Sequence[Targets]) -> Tensor:
    """Return `match_overlaps` of every picture in the form of `Dense.match`, (B, P)."""
    boxes = boxes_per_image(targets)
    return joined_matches([match_overlaps(matcher, anchors, own) for own in boxes], boxes)


def positive_count(matches: Sequence[Tensor], anchors: Tensor) -> Tensor:
    """Return how many anchors of this process's pictures have a box, a scalar."""
    counts = [anchors.new_zeros(()), *((match >= 0).sum() for match in matches)]
    return torch.stack([count.float() for count in counts]).sum()


def decode_at(coder: BoxCoder, anchors: Tensor, deltas: Tensor, locations: Tensor) -> Tensor:
    """Return the xyxy boxes (B, k, 4) of deltas (B, k, 4) at the locations (B, k) of anchors."""
    own = anchors[locations].reshape(-1, 4)
    boxes: Tensor = coder.decode_single(deltas.reshape(-1, 4), own)
    return boxes.reshape(deltas.shape)


def anchor_dense(
    class_logits: Tensor,
    deltas: Tensor,
    *,
    anchors: Tensor,
    coder: BoxCoder,
    matcher: Matcher,
    positive_iou: float,
    level_counts: Sequence[int],
) -> Dense:
    """Return predictions at anchors, decoded, with their matching.

    Args:
        class_logits: (B, P, K).
        deltas: (B, P, 4).
        anchors: (P, 4) xyxy.
        coder: turns deltas into boxes.
        matcher: assigns boxes to anchors in training.
        positive_iou: least IoU of an anchor that `Dense.assign` marks.
        level_counts: how many of the P anchors each level has.
    """
    everywhere = torch.arange(len(anchors), device=deltas.device).expand(len(deltas), -1)
    return Dense(
        class_logits,
        deltas,
        decode_at(coder, anchors, deltas, everywhere),
        partial(overlap_mask, anchors, threshold=positive_iou),
        match=partial(match_all, matcher, anchors),
        level_counts=tuple(level_counts),
    )


def joined_matches(matches: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
    """Stack per-picture matches (P,), moved to indices into all pictures' boxes end to end."""
    before, moved = 0, []
    for match, image_boxes in zip(matches, boxes, strict=True):
        moved.append(torch.where(match >= 0, match + before, match))
        before += len(image_boxes)
    return torch.stack(moved)


def as_torchvision(targets: Sequence[Targets], offset: int = 0) -> list[dict[str, Tensor]]:
    """Return targets as torchvision takes them, with `offset` added to the labels."""
    return [{"boxes": t.boxes.float(), "labels": t.labels + offset} for t in targets]
