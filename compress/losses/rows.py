"""Which class logits the losses on plain logits compare: one row per proposal or location."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compress.batch import Batch, boxes_per_image
from compress.detector import DetectorSpec, Knowledge, Outputs
from compress.losses.matching import check_classes, check_locations

RowChoice = Literal["positive", "all"]


@dataclass(frozen=True)
class Rows:
    """The logits of R proposals or locations.

    Attributes:
        student: (R, C).
        teacher: (R, C).
        labels: (R,) int64, the target class of each row; None where some row has none.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor | None


def compares_rois(student: DetectorSpec, teacher: DetectorSpec) -> bool:
    """Say whether rows are proposals, that is, whether both detectors have two stages."""
    return "rois" in student.provides and "rois" in teacher.provides


def row_needs(student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
    """Return what rows are made of: RoIs if both have them, else dense logits."""
    return frozenset({"rois"} if compares_rois(student, teacher) else {"dense"})


def check_rows(student: DetectorSpec, teacher: DetectorSpec, *, softmax: bool = True) -> list[str]:
    """Say why the rows of this pair cannot be compared, if they cannot."""
    problems = check_classes(student, teacher)
    if compares_rois(student, teacher):
        return problems
    problems += check_locations(student, teacher)
    if softmax and student.num_classes == 1:
        problems.append(
            "a softmax over the student's one class is 1 whatever its logit, so there is nothing "
            "to imitate; use bckd, or kl with scores: sigmoid"
        )
    return problems


def select_rows(student: Outputs, teacher: Outputs, batch: Batch, choice: RowChoice | None) -> Rows:
    """Return the logits to compare.

    Args:
        student: holds `rois`, or else `dense`.
        teacher: likewise.
        batch: its targets say which locations are positive; proposals bring their labels along.
        choice: None takes all proposals (K + 1 logits), or the positive locations (K logits), for
            most locations are background, where a softmax over K objects says nothing.
    """
    own, other = student.rois, teacher.rois
    if own is not None and other is not None:
        # the student's: the teacher's may name classes that only the teacher knows
        rows = Rows(own.class_logits, other.class_logits, own.labels)
        if choice == "positive":
            kept = (own.labels < own.class_logits.shape[1] - 1).nonzero()[:, 0]
            rows = Rows(rows.student[kept], rows.teacher[kept], own.labels[kept])
        return rows
    if student.dense is None or teacher.dense is None:
        raise ValueError("logits are compared; ask both detectors for `rois` or `dense`")
    flat = student.dense.class_logits.flatten(0, 1), teacher.dense.class_logits.flatten(0, 1)
    if choice == "all":
        return Rows(*flat, None)
    matched = student.dense.match(boxes_per_image(batch.targets)).flatten()
    kept = (matched >= 0).nonzero()[:, 0]
    labels = torch.cat([target.labels for target in batch.targets])[matched[kept]]
    return Rows(flat[0][kept], flat[1][kept], labels)
