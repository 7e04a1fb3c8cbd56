"""GID's general instances: the boxes on which student and teacher disagree most."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import nms

from compress.detector import Dense

ScoreForm = Literal["class", "max"]


@dataclass(frozen=True)
class Instances:
    """The selected boxes per picture, in descending score.

    Attributes:
        boxes: B tensors (n, 4) xyxy, input pixels, clipped to the picture.
        scores: B tensors (n,) in 0..1.
        locations: B tensors (n,), index of the location that each box came from.
    """

    boxes: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]
    locations: tuple[Tensor, ...]

    @property
    def counts(self) -> list[int]:
        """Number of instances in each picture."""
        return [len(boxes) for boxes in self.boxes]


@torch.no_grad()
def select_instances(
    student: Dense,
    teacher: Dense,
    sizes: Tensor,
    *,
    limit: int,
    iou: float,
    pre_nms: int,
    min_size_px: float,
    score: ScoreForm = "class",
    box_from: ScoreForm = "max",
) -> Instances:
    """Select per picture the `limit` boxes with the largest disagreement, after NMS.

    Steps: take the best `pre_nms` locations, clip to the picture, drop boxes whose width or height
    is not above `min_size_px`, suppress regardless of class and level, keep `limit`.

    Args:
        student: predictions at P locations.
        teacher: predictions at the same P locations.
        sizes: (B, 2) height and width of the pictures without their padding.
        limit: K, most instances per picture.
        iou: NMS threshold.
        pre_nms: locations kept before NMS.
        min_size_px: least side in input pixels.
        score: see `rank_locations`.
        box_from: see `rank_locations`.
    """
    scores, boxes = rank_locations(
        student.class_logits,
        teacher.class_logits,
        student.boxes,
        teacher.boxes,
        score=score,
        box_from=box_from,
    )
    # Stable: among equal scores the first location comes first on every device.
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, :pre_nms], order[:, :pre_nms]
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    boxes = clip_boxes(boxes, sizes)
    large = ((boxes[..., 2:] - boxes[..., :2]) > min_size_px).all(dim=-1)

    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for own_boxes, own_scores, own_order, own_large in zip(
        boxes, scores, order, large, strict=True
    ):
        candidates, ranks = own_boxes[own_large], own_scores[own_large]
        kept = suppress(candidates, ranks, iou=iou, limit=limit)
        found.append((candidates[kept], ranks[kept], own_order[own_large][kept]))
    return Instances(*(tuple(parts) for parts in zip(*found, strict=True)))


def rank_locations(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    *,
    score: ScoreForm,
    box_from: ScoreForm,
) -> tuple[Tensor, Tensor]:
    """Return each location's disagreement (B, P) and the more confident side's box (B, P, 4).

    Args:
        student_logits: (B, P, K) before the sigmoid.
        teacher_logits: (B, P, K).
        student_boxes: (B, P, 4).
        teacher_boxes: (B, P, 4).
        score: `class`: the largest difference over the classes; `max`: the difference of the
            largest scores.
        box_from: `max`: the teacher's box if its largest score is higher; `class`: if its score is
            not lower at the class of the largest difference.
    """
    student = student_logits.sigmoid()
    teacher = teacher_logits.sigmoid()
    student_best, teacher_best = student.amax(dim=-1), teacher.amax(dim=-1)
    by_class = (teacher - student).abs().max(dim=-1)
    disagreement = by_class.values if score == "class" else (teacher_best - student_best).abs()
    if box_from == "max":
        from_teacher = teacher_best > student_best
    else:
        most = by_class.indices[..., None]
        from_teacher = (teacher.gather(-1, most) >= student.gather(-1, most))[..., 0]
    return disagreement, torch.where(from_teacher[..., None], teacher_boxes, student_boxes)


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip (B, P, 4) xyxy boxes to (B, 2) heights and widths."""
    height, width = sizes.to(boxes).unbind(dim=1)
    border = torch.stack([width, height, width, height], dim=1)[:, None]  # (B, 1, 4)
    return boxes.clamp(min=0).minimum(border)


def suppress(boxes: Tensor, scores: Tensor, *, iou: float, limit: int) -> Tensor:
    """Return the indices of at most `limit` boxes (n, 4), best first, none overlapping."""
    return nms(boxes, scores, iou)[:limit]  # type: ignore[no-any-return]
