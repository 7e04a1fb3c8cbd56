"""CrossKD: pass the student's maps through the teacher's last layers (Wang et al., CVPR 2024).

A map of each student tower is normalised to the teacher's channel statistics and passed through
the remaining layers of the teacher's frozen head; the result is compared with the teacher's own
predictions. The student's own predictions, which are trained by the task loss, are not used. Three
forms follow the released code: GFL (edge distributions), RetinaNet (GIoU) and FCOS (-log IoU,
divided by the centreness targets). The centreness term for ATSS is left out: no detector here has
that head.

Departs from that code where the widths of the towers differ, on any level: a 1x1 convolution per
tower and level, without bias, brings the student's map to the teacher's channels before it is
normalised (the code needs equal widths). So heads of any width fit together, and heads with towers
of their own per level.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from compress.batch import Batch, Targets
from compress.detector import Dense, DetectorSpec, Knowledge, Outputs, Towers
from compress.losses.parts.alignment import align_channels
from compress.losses.parts.levels import check_classes, check_locations, listed
from compress.losses.parts.loss import DistillationLoss, LossSection, check_weights, weigh
from compress.losses.parts.responses import (
    IGNORED,
    edge_divergence,
    focal_cross_entropy,
    giou_error,
    score_gap,
)
from compress.parts.atss import paired_iou
from compress.parts.cpu_arithmetic import mean_and_deviation
from compress.parts.processes import over_batch
from export.config import NonNegativeFloat, Temperature
from export.errors import counted

BoxTerm = Literal["dfl", "giou", "iou"]
BOX_WEIGHTS: dict[BoxTerm, float] = {"dfl": 4.0, "giou": 1.0, "iou": 0.75}
STATISTICS_EPSILON = 1e-6
LEAST_IOU = 1e-6


class CrossKdConfig(LossSection):
    """Entry layer into the teacher's head, and the form and weights of both terms.

    Defaults are the authors' values for the family: `index` is the last layer (FCOS: the last but
    one), `class_weight` 1 (FCOS: 0.4), `box` is dfl where both have distributions, iou for FCOS,
    else giou, and `box_weight` is 4, 0.75 and 1 for these.
    """

    type: Literal["crosskd"]
    index: int | None = Field(None, ge=0, le=64)  # tower layers taken from the student
    class_weight: NonNegativeFloat | None = None
    beta: NonNegativeFloat = 1.0  # power of the gap between scores in the class term
    box: BoxTerm | None = None
    box_weight: NonNegativeFloat | None = None
    temperature: Temperature = 1.0  # of the dfl term, which is multiplied by its square
    normalizer: Literal["positives", "centerness"] | None = None  # dfl divides by its weights

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return what to ask of both detectors."""
        needs: set[Knowledge] = {"dense", "towers"}
        if self.box_term(student, teacher) == "dfl":
            needs.add("dfl")
        if self.divisor(teacher) == "centerness":
            needs.add("anchors")
        return frozenset(needs)

    def entry(self, teacher: DetectorSpec) -> int:
        """Return how many tower layers are taken from the student."""
        left = 2 if teacher.family == "fcos" else 1
        return max(0, teacher.tower_depth - left) if self.index is None else self.index

    def box_term(self, student: DetectorSpec, teacher: DetectorSpec) -> BoxTerm:
        """Return the form of the box term."""
        if self.box is not None:
            return self.box
        if "dfl" in student.provides & teacher.provides and student.dfl_bins == teacher.dfl_bins:
            return "dfl"
        return "iou" if teacher.family == "fcos" else "giou"

    def divisor(self, teacher: DetectorSpec) -> Literal["positives", "centerness"]:
        """Return the divisor of the class term and of box terms other than dfl."""
        if self.normalizer is not None:
            return self.normalizer
        return "centerness" if teacher.family == "fcos" else "positives"

    def weights(self, student: DetectorSpec, teacher: DetectorSpec) -> tuple[float, float]:
        """Return the weights of the class and the box term."""
        usual = (
            0.4 if teacher.family == "fcos" else 1.0,
            BOX_WEIGHTS[self.box_term(student, teacher)],
        )
        return (
            usual[0] if self.class_weight is None else self.class_weight,
            usual[1] if self.box_weight is None else self.box_weight,
        )

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = check_classes(student, teacher)
        problems += check_locations(student, teacher) + self._check_towers(student, teacher)
        if self.box == "dfl" and student.dfl_bins != teacher.dfl_bins:
            problems.append(
                f"box: dfl compares bin by bin, but the student has {student.dfl_bins} bins and "
                f"the teacher {teacher.dfl_bins}; give both the same reg_max, or use box: giou"
            )
        return problems + check_weights(*self.weights(student, teacher))

    def _check_towers(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        depths = student.tower_depth, teacher.tower_depth
        if 0 in depths:
            return [
                "the student's maps enter the teacher's towers, but the towers have (student, "
                f"teacher) {depths} layers; give both a head_depth of at least 1"
            ]
        problems = []
        if student.strides != teacher.strides:
            problems.append(
                "the teacher's head takes all of its levels, but the student has strides "
                f"{listed(student.strides)} and the teacher {listed(teacher.strides)}; give both "
                "the same strides"
            )
        index = self.entry(teacher)
        if index > min(depths[0], depths[1] - 1):
            problems.append(
                f"the student's maps after {counted(index, 'layer')} are to enter the teacher's "
                "towers, "
                f"which have (student, teacher) {depths} layers; set index to at most "
                f"{min(depths[0], depths[1] - 1)}"
            )
        return problems

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "CrossKd":
        """Return the loss for this pair."""
        return CrossKd(self, student, teacher)


class CrossKd(DistillationLoss[CrossKdConfig]):
    """A class and a box term between the teacher's head on the student's maps and on its own."""

    def __init__(self, config: CrossKdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.index = config.entry(teacher)
        self.box = config.box_term(student, teacher)
        self.divisor = config.divisor(teacher)
        self.class_weight, self.box_weight = config.weights(student, teacher)
        own, other = (spec.tower_widths(self.index) for spec in (student, teacher))
        self.align_class, self.align_box = (
            align_channels(list(zip(*widths, strict=True)), bias=False)
            for widths in zip(own, other, strict=True)
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `class` and `box`."""
        if student.dense is None or teacher.dense is None:
            raise ValueError("CrossKD compares dense predictions; ask both detectors for `dense`")
        if student.towers is None or teacher.towers is None:
            raise ValueError("CrossKD passes maps between towers; ask both detectors for `towers`")
        matched = student.dense.match(batch.targets)  # (B, P)
        if self.divisor == "centerness":
            points = torch.cat(student.anchors).view(-1, 2, 2).mean(dim=1)
            count = centerness_sum(points, matched, batch.targets)
        else:
            count = (matched >= 0).sum()
        crossed = self.cross(student.towers, teacher.towers)
        return self.compare(crossed, teacher.dense, (matched != IGNORED).float(), count)

    def cross(self, student: Towers, teacher: Towers) -> Dense:
        """Return the predictions of the teacher's layers from `index` on for the student's maps."""
        index = self.index
        inputs = []
        for aligners, own, other in (
            (self.align_class, student.class_maps[index], teacher.class_maps[index]),
            (self.align_box, student.box_maps[index], teacher.box_maps[index]),
        ):
            styled = [
                restyle(align(mine), theirs)
                for align, mine, theirs in zip(aligners, own, other, strict=True)
            ]
            inputs.append([teacher.activation(level) for level in styled] if index else styled)
        return teacher.resume(index, *inputs)

    def compare(
        self, crossed: Dense, teacher: Dense, counts: Tensor, divisor: Tensor
    ) -> dict[str, Tensor]:
        """Return `class` and `box`.

        Args:
            crossed: predictions of the teacher's head on the student's maps, at P locations.
            teacher: its predictions on its own maps.
            counts: (B, P) 0 where a location is ignored, else 1.
            divisor: divisor of both terms, except of a dfl term.
        """
        scores = teacher.class_logits.sigmoid()
        weight = scores.amax(dim=-1).masked_fill(counts == 0, 0.0)  # (B, P)
        terms: dict[str, tuple[float, Tensor]] = {}
        if self.class_weight:
            gap = score_gap(crossed.class_logits, scores)
            value = focal_cross_entropy(crossed.class_logits, scores, gap, self.config.beta)
            terms["class"] = (self.class_weight, over_batch((counts * value).sum(), divisor))
        if self.box_weight:
            value, least = self.box_sum(crossed, teacher, weight), 1.0
            if self.box == "dfl":
                divisor, least = weight.sum(), STATISTICS_EPSILON
            terms["box"] = (self.box_weight, over_batch(value, divisor, least=least))
        return weigh(terms)

    def box_sum(self, crossed: Dense, teacher: Dense, weight: Tensor) -> Tensor:
        """Return the box term before its divisor; `weight` is (B, P)."""
        if self.box == "dfl":
            if crossed.dfl_logits is None or teacher.dfl_logits is None:
                raise ValueError("box: dfl compares edge by edge; both detectors must offer `dfl`")
            error = (
                edge_divergence(crossed.dfl_logits, teacher.dfl_logits, self.config.temperature) / 4
            )
        elif self.box == "giou":
            error = giou_error(crossed.boxes, teacher.boxes)
        else:
            error = -paired_iou(crossed.boxes, teacher.boxes).clamp(min=LEAST_IOU).log()
        return (weight * error).sum()


def restyle(student: Tensor, teacher: Tensor) -> Tensor:
    """Normalise the student's map to the teacher's mean and standard deviation, per channel.

    Statistics are taken over batch and cells. A constant channel, or one with a single cell in the
    whole batch, takes the teacher's mean.

    Shapes: (B, C, H, W).
    """
    own, other = mean_and_deviation(student), mean_and_deviation(teacher)
    if own.numbers == 1:
        return own.centred + other.mean
    return own.centred / (own.deviation + STATISTICS_EPSILON) * other.deviation + other.mean


def centerness_sum(points: Tensor, matched: Tensor, targets: tuple[Targets, ...]) -> Tensor:
    """Return the sum of the centreness targets of the positive locations (FCOS, Eq. 3).

    Args:
        points: (P, 2) x, y.
        matched: (B, P) index of a box in the boxes of all targets concatenated; else negative.
        targets: B entries.
    """
    _, location = (matched >= 0).nonzero(as_tuple=True)
    boxes = torch.cat([target.boxes for target in targets]).to(points)[matched[matched >= 0]]
    before, after = points[location] - boxes[:, :2], boxes[:, 2:] - points[location]
    low, high = torch.minimum(before, after), torch.maximum(before, after)
    return (low / high.clamp(min=STATISTICS_EPSILON)).clamp(min=0).prod(dim=1).sqrt().sum()
