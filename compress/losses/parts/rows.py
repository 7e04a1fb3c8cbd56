"""Base of the losses on logits: settings, and the choice of rows.

One row per proposal, or per location of a dense head.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import TypeVar

from compress.batch import Batch
from compress.detector import DetectorSpec, Knowledge, Outputs, Rois
from compress.losses.parts.levels import both_provide, check_classes, check_locations
from compress.losses.parts.loss import DistillationLoss, LossSection, RoiSource
from export.config import Temperature

RowChoice = Literal["positive", "all"]


@dataclass(frozen=True)
class Rows:
    """The logits of R proposals or locations.

    Attributes:
        student: (R, C).
        teacher: (R, C).
        labels: (R,) int64, the target class of each row; None if a row has none.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor | None


class RoiSection(LossSection):
    """The base of the settings of losses that compare proposals where both detectors have them."""

    roi_source: RoiSource = "teacher"  # whose proposals both heads score

    def proposals_from(self) -> RoiSource:
        """Return `roi_source`."""
        return self.roi_source


class RowSection(RoiSection):
    """The base of the settings of losses that compare plain logits, row by row."""

    temperature: Temperature = 1.0  # tau; the loss is multiplied by its square
    rows: RowChoice | None = None  # None: all RoIs, or the positive locations of a dense head

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return RoIs if both detectors have them, else dense predictions."""
        return frozenset({"rois"} if compares_rois(student, teacher) else {"dense"})

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Say why the rows of this pair cannot be compared, if they cannot."""
        return check_rows(student, teacher)


RowConfigT_co = TypeVar("RowConfigT_co", bound=RowSection, covariant=True, default=RowSection)


class RowLoss(DistillationLoss[RowConfigT_co]):
    """The base of the losses on rows of logits."""

    def compared(self, rois: Rois) -> Tensor | None:
        """Return the proposals of objects, if only they are compared."""
        return objects(rois) if self.config.rows == "positive" else None

    def select(self, student: Outputs, teacher: Outputs, batch: Batch) -> Rows:
        """Return the rows that the settings ask for."""
        return select_rows(student, teacher, batch, self.config.rows)


def objects(rois: Rois) -> Tensor:
    """Mark the proposals of objects, (R,) bool."""
    return rois.labels < rois.class_logits.shape[1] - 1


def compares_rois(student: DetectorSpec, teacher: DetectorSpec) -> bool:
    """Say whether rows are proposals, that is, whether both detectors have two stages."""
    return both_provide(student, teacher, "rois")


def roi_weight(
    stated: float | None, automatic: float, student: DetectorSpec, teacher: DetectorSpec
) -> float:
    """Return a weight of a term on RoIs; without a stated one `automatic` if both have them."""
    if stated is not None:
        return stated
    return automatic if compares_rois(student, teacher) else 0.0


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
        student: outputs with `rois`, or else `dense`.
        teacher: outputs with the same.
        batch: targets that decide which locations are positive; proposals have labels.
        choice: None takes all proposals (K + 1 logits), or the positive locations (K logits): most
            locations are background, for which a softmax over K classes has no meaning.
    """
    own, other = student.rois, teacher.rois
    if own is not None and other is not None:
        # the student's: the teacher's may name classes that only the teacher knows
        rows = Rows(own.class_logits, other.class_logits, own.labels)
        if choice == "positive":
            kept = objects(own).nonzero()[:, 0]
            rows = Rows(rows.student[kept], rows.teacher[kept], own.labels[kept])
        return rows
    if student.dense is None or teacher.dense is None:
        raise ValueError("logits are compared; ask both detectors for `rois` or `dense`")
    flat = student.dense.class_logits.flatten(0, 1), teacher.dense.class_logits.flatten(0, 1)
    if choice == "all":
        return Rows(*flat, None)
    matched = student.dense.match(batch.targets).flatten()
    kept = (matched >= 0).nonzero()[:, 0]
    labels = torch.cat([target.labels for target in batch.targets])[matched[kept]]
    return Rows(flat[0][kept], flat[1][kept], labels)
