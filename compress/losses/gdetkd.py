"""G-DetKD: match the teacher's regions to a mix of student levels (Yao et al., ICCV 2021).

Reconstructed from a description of the method; the authors released no code, so the results were
not compared with theirs. Our own choices are: all default weights, the number and choice of
regions, the sizes of embeddings and queue, the initial temperatures, the IoU above which two boxes
are not negatives of each other, and that a RoI's box error is summed over its four deltas.

Regions are the proposals that both box heads score, where both detectors are two-stage; else the
ground truth.

A region of the teacher is in the channels of the level that it is pooled from. Where these differ
between levels, every level of the teacher has a mixture of its own: all student levels are adapted
to its channels (L x L adapters in all) and compared with its regions. Embeddings for the contrast
that come from levels of unequal channels are projected by the part of the layer that belongs to
their level.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou

from compress.batch import Batch, boxes_per_image
from compress.detector import DetectorSpec, Knowledge, Outputs, Rois
from compress.losses.parts.levels import (
    both_provide,
    check_classes,
    check_levels,
    pair_levels,
)
from compress.losses.parts.loss import DistillationLoss, Source, check_weights, weigh
from compress.losses.parts.masks import stack_boxes
from compress.losses.parts.patches import (
    LevelPatches,
    Space,
    in_order,
    instance_error,
    pool_all,
    pool_by_level,
    pool_every_level,
    pool_instances,
)
from compress.losses.parts.rows import RoiSection, compares_rois, roi_weight
from compress.parts.processes import gather_rows, over_batch
from export.config import Channels, NonNegativeFloat, PositiveInt, Temperature

AUTOMATIC_BOX_WEIGHT = 1.0


class GDetKdConfig(RoiSection):
    """The choice of regions, the mixture of levels, and the weights of the terms."""

    written_from: ClassVar[Source] = "reconstructed"

    type: Literal["gdetkd"]
    feature_weight: NonNegativeFloat = 1.0
    contrast_weight: NonNegativeFloat = 0.1
    box_weight: NonNegativeFloat | None = None  # default 1 if both have RoIs
    instances: int = Field(default=32, ge=1, le=10_000)  # most regions per picture
    positive_share: float = Field(default=0.25, ge=0, le=1)  # of these, among proposals
    roi_size: int = Field(default=7, ge=1, le=64)
    match_channels: Channels = 64  # of the embedding that compares levels
    temperature: Temperature | None = None  # initial; default: root of the embedding's size
    contrast_channels: Channels = 128
    contrast_temperature: Temperature = 0.1  # gamma
    queue: PositiveInt = 1024  # negatives kept from earlier steps
    same_iou: float = Field(default=0.5, ge=0, le=1)  # boxes above this IoU are not negatives

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return what to ask of both detectors."""
        if compares_rois(student, teacher) or self.box_weight:
            return frozenset({"features", "rois"})
        if both_provide(student, teacher, "towers") and self.contrast_weight:
            return frozenset({"features", "towers"})
        return frozenset({"features"})

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = check_levels(student, teacher)
        if problems:
            return problems
        box_weight = self.resolved_box_weight(student, teacher)
        problems = check_weights(self.feature_weight, self.contrast_weight, box_weight)
        return problems + (check_classes(student, teacher) if box_weight else [])

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "GDetKd":
        """Return the loss for this pair."""
        return GDetKd(self, student, teacher)

    def resolved_box_weight(self, student: DetectorSpec, teacher: DetectorSpec) -> float:
        """Return the weight of the box term, the automatic one resolved."""
        return roi_weight(self.box_weight, AUTOMATIC_BOX_WEIGHT, student, teacher)


class GDetKd(DistillationLoss[GDetKdConfig]):
    """Feature, contrast and box terms on the regions of a batch."""

    def __init__(self, config: GDetKdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.num_classes = student.num_classes
        self.box_weight = config.resolved_box_weight(student, teacher)
        self.levels = pair_levels(student, teacher)
        channels = self.levels.channels(student.channels, teacher.channels)
        widths = [other for _, other in channels]
        wide = (slots(widths), slots(widths))
        if "rois" in self.needs:
            wide = (student.embedding_channels, teacher.embedding_channels)
        elif "towers" in self.needs:
            own, other = (
                spec.tower_widths(spec.tower_depth).in_class for spec in (student, teacher)
            )
            pairs = self.levels.channels(own, other)
            wide = (slots([own for own, _ in pairs]), slots([other for _, other in pairs]))
        # The feature term needs the mixed levels, and so does the contrast term without a head.
        mixes = config.feature_weight or (config.contrast_weight and self.needs == {"features"})
        even = len(set(widths)) == 1
        self.adapters = nn.ModuleList(
            nn.Conv2d(own, other, kernel_size=1) for own, other in channels if mixes and even
        )
        self.mixture: LevelMixture | MixturePerLevel | None = None
        if mixes and even:
            self.mixture = LevelMixture(config, widths[0])
        elif mixes:
            self.mixture = MixturePerLevel(config, [own for own, _ in channels], widths)
        self.contrast = Contrast(config, *wide) if config.contrast_weight else None

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `feature`, `contrast` and `box`; a picture without regions adds nothing."""
        config, rois, own_rois = self.config, teacher.rois, student.rois
        if rois is None or own_rois is None:
            boxes = [own[: config.instances] for own in boxes_per_image(batch.targets)]
        else:
            kept = self.compared(rois)
            rois, own_rois = rois.only(kept), own_rois.only(kept)
            boxes = list(rois.boxes)
        maps = self.levels.select(student.features, teacher.features)
        found: dict[str, tuple[float, Tensor]] = {}
        own = other = maps[0][0][:0, :, 0, 0]  # no regions, attached to the graph
        if self.mixture is not None:
            spaces, own, other = self._mixed(maps, boxes)
            error = instance_error(spaces, over_channels=True)
            found["feature"] = (config.feature_weight, error)
        if self.contrast is not None:
            if rois is not None:
                own, other = _embeddings(own_rois), _embeddings(rois)
            elif "towers" in self.needs:
                own, other = self._tower_regions(student, teacher, boxes)
            found["contrast"] = (
                config.contrast_weight,
                self.contrast(own, other, boxes, batch.labeled),
            )
        if self.box_weight and own_rois is not None and rois is not None:
            found["box"] = (self.box_weight, box_loss(own_rois, rois))
        return weigh(found)

    def compared(self, rois: Rois) -> Tensor:
        """Keep the first objects and the first background of each picture, in the set ratio."""
        positives = round(self.config.positive_share * self.config.instances)
        limits = (positives, self.config.instances - positives)
        kept = []
        for labels in torch.split(rois.labels, [len(boxes) for boxes in rois.boxes]):
            on = labels < self.num_classes
            sides = [
                side & (side.cumsum(0) <= n) for side, n in zip((on, ~on), limits, strict=True)
            ]
            kept.append(sides[0] | sides[1])
        return torch.cat(kept)

    def _mixed(
        self, maps: Sequence[tuple[Tensor, Tensor]], boxes: Sequence[Tensor]
    ) -> tuple[list[Space], Tensor, Tensor]:
        """Return the mixed student's and the teacher's regions, and the embeddings of both."""
        strides, size = self.levels.strides, self.config.roi_size
        ours, theirs = (list(side) for side in zip(*maps, strict=True))
        if isinstance(self.mixture, MixturePerLevel):
            levels = pool_by_level(theirs, strides, boxes, size)
            mixed = self.mixture(pool_all(ours, strides, boxes, size), levels)
            spaces = [
                Space(own, level.patches, level.counts)
                for own, level in zip(mixed, levels, strict=True)
            ]
            sides = mixed, [level.patches for level in levels]
            own, other = (in_slots([one.mean(dim=(2, 3)) for one in s], levels) for s in sides)
            return spaces, own, other
        assert self.mixture is not None
        adapted = [adapt(own) for adapt, own in zip(self.adapters, ours, strict=True)]
        teacher = pool_instances(theirs, strides, boxes, size)
        student = self.mixture(pool_every_level(adapted, strides, boxes, size), teacher)
        spaces = [Space(student, teacher, [len(one) for one in boxes])]
        return spaces, student.mean(dim=(2, 3)), teacher.mean(dim=(2, 3))

    def _tower_regions(
        self, student: Outputs, teacher: Outputs, boxes: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return (G, C) of both sides: outputs of the class towers, averaged over each box."""
        assert student.towers is not None
        assert teacher.towers is not None
        maps = self.levels.select(student.towers.class_maps[-1], teacher.towers.class_maps[-1])
        sides = zip(*maps, strict=True)
        own, other = (
            self._rows([towers.activation(level) for level in side], boxes)
            for side, towers in zip(sides, (student.towers, teacher.towers), strict=True)
        )
        return own, other

    def _rows(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return maps averaged over each box: (G, C), or in slots where the levels differ."""
        strides, size = self.levels.strides, self.config.roi_size
        if len({level.shape[1] for level in maps}) == 1:
            return pool_instances(maps, strides, boxes, size).mean(dim=(2, 3))
        levels = pool_by_level(maps, strides, boxes, size)
        return in_slots([level.patches.mean(dim=(2, 3)) for level in levels], levels)


class LevelMixture(nn.Module):
    """Mixture of the student's levels, weighted by similarity to the teacher's region."""

    def __init__(self, config: GDetKdConfig, channels: int) -> None:
        super().__init__()
        width, size = config.match_channels, config.roi_size
        self.embed = nn.Sequential(
            nn.Conv2d(channels, width, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        length = width * ((size + 3) // 4) ** 2
        start = config.temperature or math.sqrt(length)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Return (G, C, S, S), the mixture of (G, L, C, S, S) for the teacher's (G, C, S, S)."""
        ours = self.embed(own.flatten(0, 1)).unflatten(0, own.shape[:2])  # (G, L, E)
        likeness = torch.einsum("gle,ge->gl", ours, self.embed(other))
        share = (likeness / self.log_temperature.exp()).softmax(dim=1)
        return torch.einsum("gl,glchw->gchw", share, own)


class MixturePerLevel(nn.Module):
    """Mixtures of the student's levels, one for each level of the teacher."""

    def __init__(
        self, config: GDetKdConfig, student: Sequence[int], teacher: Sequence[int]
    ) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(own, other, kernel_size=1) for own in student)
            for other in teacher
        )
        self.mixtures = nn.ModuleList(LevelMixture(config, other) for other in teacher)

    def forward(self, own: Sequence[Tensor], levels: Sequence[LevelPatches]) -> list[Tensor]:
        """Return per level of the teacher the mixtures (n, C_l, S, S) for its regions.

        Args:
            own: all G regions from each of the student's levels, (G, C, S, S).
            levels: the teacher's regions by level.
        """
        found = []
        for adapters, mix, level in zip(self.adapters, self.mixtures, levels, strict=True):
            assert isinstance(adapters, nn.ModuleList)
            patches = [one[level.places] for one in own]
            adapted = [adapt(one) for adapt, one in zip(adapters, patches, strict=True)]
            found.append(mix(torch.stack(adapted, dim=1), level.patches))
        return found


class Contrast(nn.Module):
    """InfoNCE: a region's two embeddings are the positive pair, other regions the negatives.

    Embeddings of earlier steps are kept in buffers, as the teacher's projection gave them.
    """

    queue: Tensor
    filled: Tensor

    def __init__(self, config: GDetKdConfig, student: int, teacher: int) -> None:
        super().__init__()
        self.temperature, self.same_iou = config.contrast_temperature, config.same_iou
        self.own = nn.Linear(student, config.contrast_channels)
        self.other = nn.Linear(teacher, config.contrast_channels)
        self.register_buffer("queue", torch.zeros(config.queue, config.contrast_channels))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, own: Tensor, other: Tensor, boxes: Sequence[Tensor], labeled: int) -> Tensor:
        """Return the mean over the batch's regions, 0 without any; queue them in train mode.

        Args:
            own: (G, D_s) the student's embeddings.
            other: (G, D_t) the teacher's.
            boxes: one (n, 4) xyxy tensor per picture; they sum to G.
            labeled: how many of the pictures are labelled.
        """
        own = functional.normalize(self.own(own), dim=1)
        other = functional.normalize(self.other(other), dim=1)
        count = len(own)
        stacked, picture = stack_boxes(boxes)
        same = (box_iou(stacked, stacked) > self.same_iou) & (picture[:, None] == picture)
        same.fill_diagonal_(False)
        empty = torch.arange(len(self.queue), device=own.device) >= self.filled
        others, place = gather_rows(other)  # regions of other pictures are all a contrast
        hidden = empty.new_zeros(count, len(others))
        hidden[:, place] = same
        logits = own @ torch.cat([others, self.queue]).T / self.temperature
        logits = logits.masked_fill(torch.cat([hidden, empty.expand(count, -1)], dim=1), -math.inf)
        answers = torch.arange(place.start, place.stop, device=own.device)
        loss = over_batch(functional.cross_entropy(logits, answers, reduction="sum"), count)
        if self.training:
            # in the order of one process: the labelled pictures of all come first
            later = gather_rows((picture >= labeled).to(own)).rows
            self.remember(others.detach()[later.argsort(stable=True)])
        return loss

    @torch.no_grad()
    def remember(self, embeddings: Tensor) -> None:
        """Put (G, P) embeddings at the front of the queue; drop the oldest beyond its size."""
        self.queue.copy_(torch.cat([embeddings, self.queue])[: len(self.queue)])
        self.filled.add_(len(embeddings)).clamp_(max=len(self.queue))


def box_loss(student: Rois, teacher: Rois) -> Tensor:
    """Return the absolute error of the deltas expected under the teacher's classes.

    Summed over the four deltas, averaged over R proposals. Classes are weighted by the teacher's
    probability, so a proposal that the teacher scores as background adds nothing.
    """
    chances = teacher.class_logits.softmax(dim=1)[:, :-1]  # (R, K)
    error = torch.einsum("rk,rkd->rd", chances, teacher.deltas - student.deltas)
    return over_batch(error.abs().sum(), len(error))


def slots(widths: Sequence[int]) -> int:
    """Return the length of rows that `in_slots` makes of these channels, or of equal channels."""
    return widths[0] if len(set(widths)) == 1 else sum(widths)


def in_slots(rows: Sequence[Tensor], levels: Sequence[LevelPatches]) -> Tensor:
    """Return rows (n_l, C_l) of all levels as (G, sum of C_l), in the order of the instances.

    A row has its level's numbers at the level's place and 0 elsewhere, so that a linear layer has
    weights of its own for each level.
    """
    widths = [one.shape[1] for one in rows]
    padded = [
        functional.pad(one, (sum(widths[:index]), sum(widths[index + 1 :])))
        for index, one in enumerate(rows)
    ]
    return in_order(padded, levels)


def _embeddings(rois: Rois | None) -> Tensor:
    if rois is None or rois.embeddings is None:
        raise ValueError("these proposals come without the box head's hidden layer")
    return rois.embeddings
