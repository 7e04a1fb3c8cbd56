"""Pseudo-labels: learn a teacher's boxes with its scores as soft targets (Xu et al., ICCV 2021).

The teacher ran once, before the training, and may be any detector. Its boxes pass through the
augmentation with their pictures (`Batch.taught`), so that no teacher runs in a step.

Bands, with two thresholds as in Efficient Teacher (Xu et al. 2023): a box of score s is learned if
s >= `learn`, ignored if `ignore` <= s < `learn`, and background below.

Pictures with labels: the labels say what is there and where, the teacher how sure one can be. What
is learned is a true box; its s is the best score of the teacher's boxes of the same class that
overlap it by an IoU of `agree` at least. A true box whose s is below `learn` is ignored here, so
that the task loss alone teaches it. A box of the teacher that so overlaps no true box of its class
is a false alarm or a missing label, and nothing tells which: from `ignore` on it is ignored too, so
that it is neither learned against the labels nor made background a second time.

The student's own assigner places the learned boxes as if they were labels, giving each place r (a
location, proposal or query) a box with score s_r or none. It places the ignored boxes too; a place
that only an ignored box gets is left out. With p_rc the student's scores, t_rc = s_r for the class
of the box and 0 elsewhere, and w_r = 1 for places of boxes and `background_weight` for the others:

    class = sum_r w_r sum_c |p_rc - t_rc|^beta BCE(p_rc, t_rc) / sum_r s_r

    box = sum_r s_r (1 - GIoU(box_r, learned box)) / sum_r s_r

The class term is the quality focal loss (Li et al., NeurIPS 2020) with the teacher's score in the
place of the overlap; `quality: overlap` multiplies that score by the IoU of the student's own box
with the learned one, so that both decide. That what is unsure weighs less is Soft Teacher's idea
(Xu et al. 2021), which weighs background boxes; here the score weighs the box term. Where classes
are a softmax with background (SSD, the box head of Faster R-CNN), t_r is the distribution of s_r on
the class and the rest on background, the cross entropy is that of distributions, and the difference
their total variation, half of sum_c |p_rc - t_rc|, which for two outcomes is the difference above.
This form is ours.

A two-stage student has both terms for its proposal network (`proposal_class`, `proposal_box`), with
objects as the one class, and for its box head on sampled proposals, which belong to the box that
they overlap by an IoU of 0.5; on pictures without labels they are sampled around the teacher's
boxes. A YOLO26 has them for its second branch too (`one_to_one_class`, `one_to_one_box`), an
RT-DETR for each layer of its decoder, summed, both with their own one-to-one matching. RT-DETR's
encoder and FCOS's centreness learn from labels alone.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou
from typing_extensions import Self

from compress.batch import Batch, ScoredBoxes, Targets
from compress.detector import BEFOREHAND, Dense, DetectorSpec, Knowledge, Outputs, Rois, deltas_of
from compress.losses.parts.loss import (
    DistillationLoss,
    LossSection,
    Source,
    check_weights,
    weigh,
)
from compress.losses.parts.responses import (
    IGNORED,
    LEAST_GAP,
    focal_cross_entropy,
    giou_error,
    score_gap,
)
from compress.parts.atss import paired_iou
from compress.parts.processes import over_batch
from export.config import ClashError, NonNegativeFloat

NOBODY = -1  # owner of a place that no box has
LEAST_WEIGHT = 1e-6  # of all places of learned boxes
PROPOSAL_IOU = 0.5  # from which a proposal belongs to a box, as in training with labels


class PseudoLabelsConfig(LossSection):
    """Bands of the teacher's scores, and weights of the terms."""

    asks: ClassVar[frozenset[Knowledge]] = frozenset({"dense"})
    written_from: ClassVar[Source] = "formula"

    type: Literal["pseudo_labels"]
    learn: float = Field(default=0.4, gt=0, le=1)  # least score of a box that is learned
    ignore: float = Field(default=0.1, ge=0, le=1)  # least score of one that is not background
    agree: float = Field(default=0.5, gt=0, le=1)  # least IoU with a true box, where there are any
    quality: Literal["score", "overlap"] = "score"  # class target: the score, or times the IoU
    beta: NonNegativeFloat = 2.0  # power of the difference in the class term
    class_weight: NonNegativeFloat = 1.0
    box_weight: NonNegativeFloat = 2.0
    background_weight: NonNegativeFloat = 1.0  # of places without a box; 0 for a weak teacher

    @model_validator(mode="after")
    def _bands_in_order(self) -> Self:
        if self.ignore > self.learn:
            raise ClashError(
                f"ignore {self.ignore:g} is above learn {self.learn:g}; boxes are background below "
                "ignore and learned from learn on",
                *("ignore", "learn"),
            )
        return self

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return what to ask of the student: all that its classes and boxes are predicted with."""
        del teacher
        if "queries" in student.provides:
            return frozenset({"queries"})
        return self.asks | {"rois"} if "rois" in student.provides else self.asks

    def teacher_needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return boxes, which the teacher gives before the training."""
        del student, teacher
        return BEFOREHAND

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings; any two detectors fit."""
        del student, teacher
        return check_weights(self.class_weight, self.box_weight)

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "PseudoLabels":
        """Return the loss for this student."""
        return PseudoLabels(self, student, teacher)


class Lessons(NamedTuple):
    """What a batch teaches; boxes of all pictures, laid end to end.

    Attributes:
        learned: n boxes with labels and scores.
        of_learned: (n,) the picture of each.
        ignored: m boxes with labels.
        of_ignored: (m,) the picture of each.
        pictures: how many pictures there are.
    """

    learned: ScoredBoxes
    of_learned: Tensor
    ignored: Targets
    of_ignored: Tensor
    pictures: int

    def as_objects(self) -> "Lessons":
        """Return the same boxes with the one class of a proposal network."""
        return self._replace(
            learned=self.learned._replace(labels=torch.zeros_like(self.learned.labels)),
            ignored=self.ignored._replace(labels=torch.zeros_like(self.ignored.labels)),
        )


class PseudoLabels(DistillationLoss[PseudoLabelsConfig]):
    """Terms `class` and `box`, and `proposal_class` and `proposal_box` of two-stage students."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the terms that the student's kind of predictions has."""
        del teacher
        config = self.config
        lessons = lessons_of(batch, learn=config.learn, ignore=config.ignore, agree=config.agree)
        queries, dense, rois = student.queries, student.dense, student.rois
        if "queries" in self.needs and queries is not None:
            owner = owners(queries.match, lessons)  # (N, B, Q)
            logits = queries.class_logits.flatten(0, 2)
            return self._compare(
                owner.flatten(),
                lessons.learned,
                queries.boxes.flatten(0, 2),
                logits.shape[1],
                lambda wanted: self._of_scores(logits, wanted),
                layers=len(owner),
            )
        if dense is None:
            raise ValueError(
                "pseudo-labels are learned by `dense`, `rois` or `queries`; ask for one"
            )
        if "rois" not in self.needs:
            one = {} if dense.one_to_one is None else self._at_locations(dense.one_to_one, lessons)
            named = {f"one_to_one_{name}": term for name, term in one.items()}
            return self._at_locations(dense, lessons) | named
        if rois is None or rois.move is None:
            raise ValueError("pseudo-labels for a box head need `rois` that can be moved")
        first = self._at_locations(dense, lessons.as_objects())
        named = {f"proposal_{name}": term for name, term in first.items()}
        return named | self._at_proposals(rois, rois.move, lessons)

    def _at_locations(self, dense: Dense, lessons: Lessons) -> dict[str, Tensor]:
        logits, background = dense.class_logits.flatten(0, 1), dense.background_logits

        def error(wanted: Tensor) -> Tensor:
            if background is None:
                return self._of_scores(logits, wanted)
            every = torch.cat((logits, background.flatten()[:, None]), dim=1)
            return self._of_outcomes(functional.logsigmoid(every), wanted)

        owner = owners(dense.match, lessons).flatten()
        boxes = dense.boxes.flatten(0, 1)
        return self._compare(owner, lessons.learned, boxes, logits.shape[1], error)

    def _at_proposals(
        self, rois: Rois, move: Callable[[Tensor, Tensor], Tensor], lessons: Lessons
    ) -> dict[str, Tensor]:
        owner = proposal_owners(rois.boxes, lessons)
        # the last one, of the places without a box, may be any
        labels = functional.pad(lessons.learned.labels, (0, 1))[owner.clamp(min=NOBODY)]
        boxes = move(deltas_of(labels, rois.deltas), torch.cat(rois.boxes))
        log_p = rois.class_logits.log_softmax(dim=1)
        return self._compare(
            owner,
            lessons.learned,
            boxes,
            rois.deltas.shape[1],
            lambda wanted: self._of_outcomes(log_p, wanted),
        )

    def _compare(
        self,
        owner: Tensor,
        learned: ScoredBoxes,
        boxes: Tensor,
        classes: int,
        error: Callable[[Tensor], Tensor],
        layers: int = 1,
    ) -> dict[str, Tensor]:
        """Return `class` and `box` at R places.

        Args:
            owner: (R,) the place's box in `learned`, NOBODY or IGNORED.
            learned: n boxes.
            boxes: (R, 4) the student's, xyxy pixels.
            classes: K, without background.
            error: function from the wanted scores (R, K) to the class error (R,).
            layers: how many times the places are those of all pictures; their terms are summed.
        """
        config = self.config
        rows = (owner >= 0).nonzero()[:, 0]
        target = learned._replace(**{name: x[owner[rows]] for name, x in learned._asdict().items()})
        quality = target.scores
        if config.quality == "overlap":
            quality = quality * paired_iou(boxes[rows].detach(), target.boxes)
        wanted = quality.new_zeros(len(owner), classes)
        wanted[rows, target.labels] = quality
        weight = torch.where(owner == IGNORED, 0.0, config.background_weight)
        weight[rows] = 1.0
        total = target.scores.sum() / layers
        terms: dict[str, tuple[float, Tensor]] = {}
        if config.class_weight:
            value = over_batch((weight * error(wanted)).sum(), total)
            terms["class"] = (config.class_weight, value)
        if config.box_weight:
            value = (target.scores * giou_error(boxes[rows], target.boxes)).sum()
            terms["box"] = (config.box_weight, over_batch(value, total, least=LEAST_WEIGHT))
        return weigh(terms)

    def _of_scores(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Return the error (R,) of scores of their own, of logits (R, K), summed over classes."""
        gap = score_gap(logits, wanted)
        return focal_cross_entropy(logits, wanted, gap, self.config.beta)

    def _of_outcomes(self, log_p: Tensor, wanted: Tensor) -> Tensor:
        """Return the error (R,) of log-probabilities (R, K + 1), background last."""
        rest = 1 - wanted.sum(dim=1, keepdim=True)
        outcomes = torch.cat((wanted, rest), dim=1)
        apart = (log_p.exp() - outcomes).abs().sum(dim=1) / 2
        # below a beta of 1 the gradient at 0 is infinite
        factor = apart.clamp(min=LEAST_GAP).pow(self.config.beta)
        return -factor * (outcomes * log_p).sum(dim=1)


@torch.no_grad()
def lessons_of(batch: Batch, *, learn: float, ignore: float, agree: float) -> Lessons:
    """Choose what a batch teaches from the teacher's boxes and the labels.

    Args:
        batch: with `taught`.
        learn: least score of a box that is learned.
        ignore: least score of one that is ignored.
        agree: least IoU of a teacher's box with the true box that it finds.

    Raises:
        ValueError: the batch holds no teacher's boxes.
    """
    if len(batch.taught) != len(batch.images):
        raise ValueError(
            f"pseudo_labels learns from a teacher's boxes on all {len(batch.images)} pictures of a "
            f"batch, and has those of {len(batch.taught)}; give `taught` to training_batches"
        )
    said, of_said = _laid_out(batch.taught, batch.images)
    known = batch.targets[: batch.labeled]
    truth, of_truth = _laid_out(
        [ScoredBoxes(*one, one.boxes.new_ones(len(one.labels))) for one in known], batch.images
    )
    finds = (
        (box_iou(said.boxes, truth.boxes) >= agree)
        & (said.labels[:, None] == truth.labels)
        & (of_said[:, None] == of_truth)
    )  # of the teacher's boxes (rows) and the true ones
    scores = torch.where(finds, said.scores[:, None], 0.0)
    best = functional.pad(scores, (0, 0, 1, 0)).amax(dim=0)  # of true boxes; 0 if none found it
    confirmed = best >= learn
    with_labels = of_said < batch.labeled
    confident = ~with_labels & (said.scores >= learn)
    unsure = torch.where(with_labels, ~finds.any(dim=1), said.scores < learn)
    unsure &= said.scores >= ignore
    ignored = torch.cat((of_truth[~confirmed], of_said[unsure]))
    order = ignored.argsort(stable=True)  # by picture
    return Lessons(
        # labelled pictures come first, so these are in the order of the pictures
        ScoredBoxes(
            torch.cat((truth.boxes[confirmed], said.boxes[confident])),
            torch.cat((truth.labels[confirmed], said.labels[confident])),
            torch.cat((best[confirmed], said.scores[confident])),
        ),
        torch.cat((of_truth[confirmed], of_said[confident])),
        Targets(
            torch.cat((truth.boxes[~confirmed], said.boxes[unsure]))[order],
            torch.cat((truth.labels[~confirmed], said.labels[unsure]))[order],
        ),
        ignored[order],
        len(batch.images),
    )


def _laid_out(found: Sequence[ScoredBoxes], images: Tensor) -> tuple[ScoredBoxes, Tensor]:
    """Return the boxes of all pictures laid end to end, and the picture (n,) of each."""
    nothing = ScoredBoxes(
        images.new_zeros(0, 4, dtype=torch.float32),
        images.new_zeros(0, dtype=torch.int64),
        images.new_zeros(0, dtype=torch.float32),
    )
    counts = torch.tensor([len(one.labels) for one in found], dtype=torch.int64)
    picture = torch.arange(len(found)).repeat_interleave(counts).to(images.device)
    return ScoredBoxes(
        *(torch.cat(column) for column in zip(nothing, *found, strict=True))
    ), picture


def owners(match: Callable[[Sequence[Targets]], Tensor], lessons: Lessons) -> Tensor:
    """Return the learned box of each place of an assigner, NOBODY or IGNORED."""
    learned = match(_by_picture(lessons.learned, lessons.of_learned, lessons.pictures))
    if not len(lessons.of_ignored):
        return learned
    unsure = match(_by_picture(lessons.ignored, lessons.of_ignored, lessons.pictures))
    return torch.where((learned < 0) & (unsure != NOBODY), IGNORED, learned)


def _by_picture(found: ScoredBoxes | Targets, picture: Tensor, pictures: int) -> list[Targets]:
    counts = torch.bincount(picture, minlength=pictures).tolist()
    parts = torch.split(found.boxes, counts), torch.split(found.labels, counts)
    return [Targets(*own) for own in zip(*parts, strict=True)]


def proposal_owners(proposals: Sequence[Tensor], lessons: Lessons) -> Tensor:
    """Return the learned box of each proposal, (R,), NOBODY or IGNORED."""
    counts = torch.tensor([len(own) for own in proposals])
    boxes = torch.cat(list(proposals))
    picture = torch.arange(len(proposals)).repeat_interleave(counts).to(boxes.device)

    def overlaps(others: Tensor, of_others: Tensor) -> Tensor:
        """Return the IoU (R, n + 1) with the boxes of the same picture, after a column of 0."""
        found = torch.where(picture[:, None] == of_others, box_iou(boxes, others), 0.0)
        return functional.pad(found, (1, 0))

    best, owner = overlaps(lessons.learned.boxes, lessons.of_learned).max(dim=1)
    unsure = overlaps(lessons.ignored.boxes, lessons.of_ignored).amax(dim=1)
    nobody = torch.where(unsure >= PROPOSAL_IOU, IGNORED, NOBODY)
    return torch.where(best >= PROPOSAL_IOU, owner - 1, nobody)
