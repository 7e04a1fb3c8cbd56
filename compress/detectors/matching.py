"""Which locations would be positive if given boxes were the ground truth."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from compress.batch import Targets


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
