"""GID: imitate where the two models disagree (Dai et al., CVPR 2021, Eq. 1 to 9).

Selects general instances without ground truth and compares their features, their mutual distances
and the predictions at their locations. Differs from the released code in three places: its adapter
is trained (the code has none), the score compares class by class as published (`score: max` is
the code's), and an instance that overlaps no anchor selects none instead of all.

Pyramids whose levels differ in channels, as YOLO's do, are not in the paper. Each level then has an
adapter of its own, from the student's channels to the teacher's. The feature term compares an
instance with the channels of its level and scales the sum so that instances of all levels weigh
alike. If the teacher's levels differ, the relation term compares distances within a level alone,
relative to that level's mean: each level has a head of its own, so maps of two levels share no
space in which a distance would mean anything, and a projection that made one would have no
target. The relative distances of all levels have mean 1, so their pairs are averaged together.

An instance is pooled from the level of its size: from stride 16 on from 224 pixels, from 32 on from
448. Smaller inputs have no instance on the coarser levels, and no feature term reaches these.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress.batch import Batch
from compress.detector import Dense, DetectorSpec, Knowledge, Outputs
from compress.losses.parts.distances import relative_distances
from compress.losses.parts.gid_selection import Instances, ScoreForm, select_instances
from compress.losses.parts.levels import check_classes, check_levels, check_locations, pair_levels
from compress.losses.parts.loss import DistillationLoss, LossSection, check_weights, weigh
from compress.losses.parts.patches import Space, instance_error, pool_spaces
from compress.parts.processes import gather_rows, over_batch
from export.config import NonNegativeFloat


class GidConfig(LossSection):
    """The selection of instances, and the weights of the terms."""

    asks: ClassVar[frozenset[Knowledge]] = frozenset({"features", "dense"})

    type: Literal["gid"]
    instances: int = Field(default=10, ge=1, le=10_000)  # K, per picture
    nms_iou: float = Field(0.3, ge=0, le=1)
    pre_nms: int = Field(default=3000, ge=1, le=100_000)
    min_size_px: NonNegativeFloat = 10.0  # of the input; lower it for small inputs
    score: ScoreForm = "class"
    box_from: ScoreForm = "max"
    roi_size: int = Field(default=10, ge=1, le=64)
    feature_weight: NonNegativeFloat = 5e-4
    relation_weight: NonNegativeFloat = 40.0
    relation_scope: Literal["batch", "image"] = "batch"
    relation_beta: NonNegativeFloat = 1.0
    response_weight: NonNegativeFloat = 1.0
    class_weight: NonNegativeFloat = 0.1
    box_weight: NonNegativeFloat = 1.0
    box_beta: NonNegativeFloat = 0.0
    adapter: bool | None = None  # None: only if the channels differ

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = check_classes(student, teacher)
        problems += check_weights(
            self.feature_weight,
            self.relation_weight,
            self.response_weight * (self.class_weight + self.box_weight),
        )
        problems += check_locations(student, teacher)
        apart = check_levels(student, teacher)
        if apart:
            return problems + apart
        pairs = pair_levels(student, teacher)
        channels = set(pairs.channels(student.channels, teacher.channels))
        unequal = any(own != other for own, other in channels)
        if self.adapter is False and unequal:
            problems.append(
                "adapter: false needs equal channels, but the levels have (student, teacher) "
                f"{sorted(channels)}; leave adapter out"
            )
        return problems

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Gid":
        """Return the loss for this pair."""
        return Gid(self, student, teacher)


class Gid(DistillationLoss[GidConfig]):
    """Feature, relation and response terms on the general instances of a batch."""

    def __init__(self, config: GidConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.levels = pair_levels(student, teacher)
        channels = self.levels.channels(student.channels, teacher.channels)
        # shared by the levels if they have equal channels, else a list of one per level
        self.adapter: nn.Module = (
            self._adapter(*channels[0])
            if len(set(channels)) == 1
            else nn.ModuleList(self._adapter(own, other) for own, other in channels)
        )

    def _adapter(self, own: int, other: int) -> nn.Module:
        adapted = own != other if self.config.adapter is None else self.config.adapter
        return nn.Conv2d(own, other, kernel_size=3, padding=1) if adapted else nn.Identity()

    def adapt(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the student's L maps with the teacher's channels."""
        if not isinstance(self.adapter, nn.ModuleList):
            return [self.adapter(level) for level in maps]
        return [adapter(level) for adapter, level in zip(self.adapter, maps, strict=True)]

    def select(self, student: Dense, teacher: Dense, sizes: Tensor) -> Instances:
        """Return the batch's general instances; no gradient passes through them."""
        return select_instances(
            student,
            teacher,
            sizes,
            limit=self.config.instances,
            iou=self.config.nms_iou,
            pre_nms=self.config.pre_nms,
            min_size_px=self.config.min_size_px,
            score=self.config.score,
            box_from=self.config.box_from,
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `feature`, `relation`, `response_class` and `response_box`."""
        if student.dense is None or teacher.dense is None:
            raise ValueError("GID compares dense predictions; ask both detectors for `dense`")
        config = self.config
        found = self.select(student.dense, teacher.dense, batch.sizes)
        maps = self.levels.select(student.features, teacher.features)
        own_maps = self.adapt([own for own, _ in maps])
        spaces = pool_spaces(
            [(own, other) for own, (_, other) in zip(own_maps, maps, strict=True)],
            self.levels.strides,
            found.boxes,
            config.roi_size,
        )
        positive = student.dense.assign(found.boxes)  # (B, P)
        in_class, in_box = response_loss(
            student.dense, teacher.dense, positive, beta=config.box_beta
        )
        if config.relation_scope == "batch":
            related = [
                (gather_rows(one.student).rows, gather_rows(one.teacher).rows) for one in spaces
            ]
            relation = batch_relation_loss(related, beta=config.relation_beta)
        else:
            relation = relation_loss(spaces, beta=config.relation_beta)
        return weigh(
            {
                "feature": (config.feature_weight, instance_error(spaces)),
                "relation": (config.relation_weight, relation),
                "response_class": (config.response_weight * config.class_weight, in_class),
                "response_box": (config.response_weight * config.box_weight, in_box),
            }
        )


def relation_loss(spaces: Sequence[Space], *, beta: float) -> Tensor:
    """Compare the distances between instances of a picture, each side's scaled by its own mean.

    Args:
        spaces: spaces of one batch; distances are taken within a space.
        beta: width of the quadratic part of the comparison.

    Returns:
        The mean over pictures that have three or more instances in a space, each a mean over its
        ordered pairs; else 0.
    """
    pictures = zip(*(space.by_picture() for space in spaces), strict=True)
    groups = [
        batch_relation_loss(parts, beta=beta)
        for parts in pictures
        if any(len(own) >= 3 for own, _ in parts)
    ]
    nothing = 0 * torch.stack([space.student.sum() for space in spaces]).sum()
    total = torch.stack(groups).sum() if groups else nothing
    return over_batch(total, len(groups))


def batch_relation_loss(spaces: Sequence[tuple[Tensor, Tensor]], *, beta: float) -> Tensor:
    """Compare the distances between all instances of each space, scaled by their mean there.

    Args:
        spaces: student and teacher patches (n, C, S, S) per space.
        beta: width of the quadratic part of the comparison.

    Returns:
        A mean over the ordered pairs of the spaces; one of fewer than three instances has none.
    """
    sums, pairs = [], 0
    for student, teacher in spaces:
        count = len(student)
        if count < 3:
            sums.append(0 * student.sum())
            continue
        own, other = student.flatten(1), teacher.flatten(1)
        difference = relative_distances(other) - relative_distances(own)
        sums.append(smooth_absolute(difference, beta).sum())
        pairs += count**2 - count
    return torch.stack(sums).sum() / max(pairs, 1)


def response_loss(
    student: Dense, teacher: Dense, positive: Tensor, *, beta: float
) -> tuple[Tensor, Tensor]:
    """Return the class and box terms, averaged over positive locations.

    Args:
        student: predictions at P locations.
        teacher: predictions at the same P locations, detached.
        positive: (B, P) bool.
        beta: width of the quadratic part of the box term.
    """
    count = positive.sum()
    in_class = functional.binary_cross_entropy_with_logits(
        student.class_logits[positive], teacher.class_logits[positive].sigmoid(), reduction="sum"
    )
    in_box = smooth_absolute(student.deltas[positive] - teacher.deltas[positive], beta).sum()
    return over_batch(in_class, count), over_batch(in_box, count)


def smooth_absolute(difference: Tensor, beta: float) -> Tensor:
    """Return |x| with a quadratic part below `beta`; plain |x| for beta = 0."""
    size = difference.abs()
    if beta < 1e-5:
        return size
    return torch.where(size < beta, 0.5 * size.square() / beta, size - 0.5 * beta)
