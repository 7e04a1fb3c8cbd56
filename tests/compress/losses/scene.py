"""Small made-up detectors, pictures and outputs for the tests of losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from compress.batch import Batch, ScoredBoxes, Targets
from compress.detector import (
    Dense,
    DetectorSpec,
    Knowledge,
    Outputs,
    Queries,
    Rois,
    TowerChannels,
    Towers,
)

EVERYTHING: frozenset[Knowledge] = frozenset(
    {"features", "backbone", "anchors", "dense", "dfl", "towers", "rois", "queries", "task"}
)
NUM_CLASSES = 3
SIZE_PX = 64
STRIDES = (8, 16, 32)
ROIS_PER_PICTURE = 5
BINS = 5
EMBEDDING = 6
TOWER_CHANNELS, TOWER_DEPTH = 4, 2
QUERY_CHANNELS, QUERIES_PER_PICTURE, DECODER_LAYERS = 4, 6, 2


def make_spec(
    channels: Sequence[int] = (4, 4, 4),
    strides: Sequence[int] = STRIDES,
    backbone_channels: Sequence[int] = (2, 3, 4, 5),
    backbone_strides: Sequence[int] = (4, 8, 16, 32),
    provides: frozenset[Knowledge] = EVERYTHING,
    num_classes: int = NUM_CLASSES,
    family: str = "made_up",
    locations: str = "one square per cell",
    tower_channels: int | TowerChannels = TOWER_CHANNELS,
    query_channels: int = QUERY_CHANNELS,
) -> DetectorSpec:
    return DetectorSpec(
        family=family,
        num_classes=num_classes,
        channels=tuple(channels),
        strides=tuple(strides),
        backbone_channels=tuple(backbone_channels),
        backbone_strides=tuple(backbone_strides),
        provides=provides,
        locations=locations,
        dfl_bins=BINS,
        tower_depth=TOWER_DEPTH,
        tower_channels=tower_channels,
        embedding_channels=EMBEDDING,
        query_channels=query_channels,
    )


def make_batch(
    boxes: Sequence[Sequence[Sequence[float]]],
    size_px: int = SIZE_PX,
    labels: Sequence[Sequence[int]] | None = None,
) -> Batch:
    """One list of xyxy boxes per picture, which fills its square; labels are 0 by default.

    A teacher found them all a pixel to the right, and one box that is not there.
    """
    labels = [[0] * len(own) for own in boxes] if labels is None else labels
    targets = tuple(
        Targets(
            torch.tensor(own, dtype=torch.float32).reshape(-1, 4),
            torch.tensor(classes, dtype=torch.int64),
        )
        for own, classes in zip(boxes, labels, strict=True)
    )
    return Batch(
        images=torch.zeros(len(boxes), 3, size_px, size_px),
        targets=targets,
        taught=tuple(found_by_a_teacher(own) for own in targets),
        sizes=torch.tensor([[size_px, size_px]] * len(boxes)),
        image_ids=tuple(range(len(boxes))),
        labeled=len(boxes),
    )


def found_by_a_teacher(targets: Targets) -> ScoredBoxes:
    """Return the boxes of a picture moved by a pixel, with scores from 0.9 down, and one more."""
    moved = targets.boxes + torch.tensor([1.0, 0.0, 1.0, 0.0])
    false = torch.tensor([[4.0, 4.0, 20.0, 20.0]])
    scores = 0.9 - 0.1 * torch.arange(len(targets.labels) + 1) / (len(targets.labels) + 1)
    return ScoredBoxes(
        torch.cat((moved, false)), torch.cat((targets.labels, torch.tensor([0]))), scores
    )


def cell_boxes(strides: Sequence[int], size_px: int) -> Tensor:
    """A square of three cells around each cell, (P, 4), level-major and row-major."""
    boxes = []
    for stride in strides:
        middle = (torch.arange(size_px // stride) + 0.5) * stride
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        centres = torch.stack([x, y], dim=-1).reshape(-1, 2)
        boxes.append(torch.cat([centres - 1.5 * stride, centres + 1.5 * stride], dim=1))
    return torch.cat(boxes)


def centres_inside(boxes: Tensor) -> "CentresInside":
    return CentresInside((boxes[:, :2] + boxes[:, 2:]) / 2)


class CentresInside:
    """An assigner: a location is positive if its centre lies inside an instance."""

    def __init__(self, centres: Tensor) -> None:
        self.centres = centres

    def __call__(self, instances: Sequence[Tensor]) -> Tensor:
        x, y = self.centres.unbind(1)  # (P,)
        masks = [
            ((x > own[:, :1]) & (x < own[:, 2:3]) & (y > own[:, 1:2]) & (y < own[:, 3:])).any(dim=0)
            for own in instances
        ]
        return torch.stack(masks)

    def match(self, targets: Sequence[Targets]) -> Tensor:
        """The first box around each centre, numbered over all pictures; -1 without one."""
        found, before = [], 0
        for own, _ in targets:
            x, y = self.centres.unbind(1)
            if len(own) == 0:
                found.append(torch.full((len(self.centres),), -1))
                continue
            inside = (x > own[:, :1]) & (x < own[:, 2:3]) & (y > own[:, 1:2]) & (y < own[:, 3:])
            first = inside.int().argmax(dim=0) + before
            found.append(torch.where(inside.any(dim=0), first, -1))
            before += len(own)
        return torch.stack(found)


class SmallTowers(torch.nn.Module):
    """Two towers of convolutions and a prediction layer per level, as a frozen teacher has them."""

    def __init__(
        self,
        spec: DetectorSpec,
        around: Tensor,
        activation: Callable[[Tensor], Tensor] = functional.relu,
    ) -> None:
        super().__init__()
        self.activation = activation
        widths = [spec.tower_widths(index) for index in range(TOWER_DEPTH + 1)]
        self.class_layers, self.box_layers = (
            torch.nn.ModuleList(
                torch.nn.ModuleList(
                    [torch.nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(level)]
                    + [torch.nn.Conv2d(level[-1], outputs, 1)]
                )
                for level in zip(*tower, strict=True)
            )
            for tower, outputs in zip(
                zip(*widths, strict=True), (spec.num_classes, 4 * BINS), strict=True
            )
        )
        self.around = around
        self.requires_grad_(False)

    def _by_level(self) -> list[list[list[torch.nn.Module]]]:
        """Return the layers of the class tower, then of the box tower, level by level."""
        towers = (self.class_layers, self.box_layers)
        return [[list(level.children()) for level in tower] for tower in towers]

    def towers(self, features: Sequence[Tensor]) -> Towers:
        """Run all layers on the pyramid's maps."""
        found = []
        for tower in self._by_level():
            maps = [tuple(features)]
            for index in range(TOWER_DEPTH):
                inputs = [self.activation(m) for m in maps[-1]] if index else maps[-1]
                maps.append(
                    tuple(layers[index](level) for layers, level in zip(tower, inputs, strict=True))
                )
            found.append(tuple(maps))
        return Towers(found[0], found[1], self.resume, self.activation)

    def resume(self, index: int, in_class: Sequence[Tensor], in_box: Sequence[Tensor]) -> Dense:
        flat = []
        for maps, tower in zip((in_class, in_box), self._by_level(), strict=True):
            ends = []
            for level, layers in zip(maps, tower, strict=True):
                *convs, predict = layers[index:]
                for conv in convs:
                    level = self.activation(conv(level))
                ends.append(predict(level).flatten(2).transpose(1, 2))
            flat.append(torch.cat(ends, dim=1))
        bins = torch.arange(BINS, dtype=torch.float32)
        deltas = flat[1].unflatten(-1, (4, BINS)).softmax(-1) @ bins
        signs = torch.tensor([-1.0, -1.0, 1.0, 1.0])
        assign = centres_inside(self.around)
        return Dense(
            flat[0], deltas, self.around + signs * deltas, assign, flat[1], match=assign.match
        )


def in_order(shape: Sequence[int], targets: Sequence[Targets]) -> Tensor:
    """An assigner: a picture's first box belongs to its first query, in every layer, and so on."""
    matched, before = torch.full(tuple(shape), -1), 0
    for picture, target in enumerate(targets):
        count = min(len(target.labels), shape[2])
        matched[:, picture, :count] = before + torch.arange(count)
        before += len(target.labels)
    return matched


@dataclass(frozen=True)
class SmallDecoder:
    """A decoder on the pictures' memory (B, D): a query answers what it and its picture hold.

    Its layers differ in how much they move the class logits; `into` is (D, K + 4).
    """

    memory: Tensor
    into: Tensor
    size_px: int

    def probe(self, content: Tensor, references: Tensor) -> Queries:
        answers = torch.tanh(content.to(self.into) + self.memory[:, None]) @ self.into
        layers = torch.arange(1.0, DECODER_LAYERS + 1)[:, None, None, None] * answers
        shares = references.sigmoid()
        half = shares[..., 2:] * (1 + 0.3 * torch.tanh(layers[..., -2:])) / 2
        centres = shares[..., :2] + 0.1 * torch.tanh(layers[..., -4:-2])
        boxes = self.size_px * torch.cat((centres - half, centres + half), dim=-1)
        match = partial(in_order, layers.shape[:3])
        return Queries(content, references, layers[..., :-4], boxes, self.probe, match)

    def own(self, count: int, generator: torch.Generator) -> Queries:
        """Answer random queries, as many for each picture."""
        shape = len(self.memory), count
        content = torch.randn(*shape, len(self.into), generator=generator)
        return self.probe(content, torch.randn(*shape, 4, generator=generator))


def decoder_of(outputs: Outputs) -> SmallDecoder:
    """Return the decoder behind the queries that `make_outputs` made."""
    assert outputs.queries is not None
    decoder: SmallDecoder = outputs.queries.probe.__self__  # type: ignore[attr-defined]
    return decoder


def change_queries(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Queries:
    """Return the queries of changed pictures; `change` is of tensors by picture."""
    decoder, queries = decoder_of(outputs), outputs.queries
    assert queries is not None
    changed = replace(decoder, memory=change(decoder.memory))
    return changed.probe(change(queries.content), change(queries.references))


def make_outputs(spec: DetectorSpec, pictures: int, seed: int, size_px: int = SIZE_PX) -> Outputs:
    """Random outputs of everything that a detector can provide; leaves ask for gradients."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    def maps(channels: Sequence[int], strides: Sequence[int]) -> tuple[Tensor, ...]:
        return tuple(
            draw(pictures, c, size_px // s, size_px // s)
            for c, s in zip(channels, strides, strict=True)
        )

    around = cell_boxes(spec.strides, size_px)
    assign = centres_inside(around)
    locations, rows = around.shape[0], pictures * ROIS_PER_PICTURE
    jitter = 4 * torch.randn(pictures, locations, 4, generator=generator)
    labels = torch.randint(0, spec.num_classes + 1, (rows,), generator=torch.Generator())
    class_logits = draw(pictures, locations, spec.num_classes)
    deltas = draw(pictures, locations, 4)
    roi_deltas = draw(rows, spec.num_classes, 4)
    widths = [spec.tower_widths(index) for index in range(TOWER_DEPTH + 1)]
    return Outputs(
        features=maps(spec.channels, spec.strides),
        backbone=maps(spec.backbone_channels, spec.backbone_strides),
        dense=Dense(
            class_logits=class_logits,
            deltas=deltas,
            boxes=around + jitter + deltas,
            assign=assign,
            dfl_logits=draw(pictures, locations, 4 * BINS),
            match=assign.match,
            level_counts=tuple((size_px // stride) ** 2 for stride in spec.strides),
        ),
        rois=Rois(
            boxes=(torch.tensor([[0.0, 0.0, 16.0, 16.0]] * ROIS_PER_PICTURE),) * pictures,
            labels=labels,
            class_logits=draw(rows, spec.num_classes + 1),
            deltas=roi_deltas,
            target_deltas=torch.randn(rows, 4, generator=generator)
            * (labels < spec.num_classes)[:, None],
            embeddings=draw(rows, EMBEDDING),
            predicted=around[:rows] + roi_deltas[:, 0],
            move=lambda deltas, boxes: boxes + deltas,
        ),
        anchors=tuple(torch.split(around, [(size_px // stride) ** 2 for stride in spec.strides])),
        towers=Towers(
            tuple(maps(one.in_class, spec.strides) for one in widths),
            tuple(maps(one.in_box, spec.strides) for one in widths),
            SmallTowers(spec, around).resume,
        ),
        queries=SmallDecoder(
            draw(pictures, spec.query_channels),
            torch.randn(spec.query_channels, spec.num_classes + 4, generator=generator),
            size_px,
        ).own(QUERIES_PER_PICTURE, generator),
    )


# Sides of boxes that are pooled from strides 8, 16 and 32; pictures of LARGE_PX hold them.
POOLED_SIDES_PX, LARGE_PX = (60.0, 240.0, 460.0), 512


def reach_every_level(student: Outputs, teacher: Outputs, each: int = 1) -> tuple[Outputs, Outputs]:
    """Make the first `each` locations of every level general instances, and proposals of all sizes.

    Both sides have a box of the level's size there, which only the teacher scores high. Outputs are
    those of pictures of LARGE_PX.
    """
    dense = student.dense
    assert dense is not None
    firsts = torch.cat(
        [
            sum(dense.level_counts[:level]) + torch.arange(each)
            for level in range(len(dense.level_counts))
        ]
    )
    sides = torch.tensor(POOLED_SIDES_PX).repeat_interleave(each)[:, None]
    corners = 16.0 * torch.arange(each).repeat(len(POOLED_SIDES_PX))[:, None].expand(-1, 2)
    rows = torch.arange(ROIS_PER_PICTURE)[:, None] % len(POOLED_SIDES_PX)
    proposals = torch.tensor(POOLED_SIDES_PX)[rows] * torch.tensor([0.0, 0.0, 1.0, 1.0])
    found = []
    for outputs, logit in ((student, -9.0), (teacher, 9.0)):
        assert outputs.dense is not None
        assert outputs.rois is not None
        logits, boxes = outputs.dense.class_logits.clone(), outputs.dense.boxes.clone()
        logits[:, firsts] = logit
        boxes[:, firsts] = torch.cat([corners, corners + sides], dim=1)
        dense = replace(outputs.dense, class_logits=logits, boxes=boxes)
        rois = replace(outputs.rois, boxes=(proposals,) * len(outputs.rois.boxes))
        found.append(replace(outputs, dense=dense, rois=rois))
    return found[0], found[1]


def leaves(outputs: Outputs) -> list[Tensor]:
    """Every tensor of `outputs` that can carry a gradient."""
    dense, rois = outputs.dense, outputs.rois
    found = [*outputs.features, *outputs.backbone]
    found += [decoder_of(outputs).memory] if outputs.queries is not None else []
    if dense is not None:
        found += [dense.class_logits, dense.deltas]
        found += [dense.dfl_logits] if dense.dfl_logits is not None else []
    if rois is not None:
        found += [rois.class_logits, rois.deltas]
        found += [rois.embeddings] if rois.embeddings is not None else []
    if outputs.towers is not None:
        for layers in (outputs.towers.class_maps, outputs.towers.box_maps):
            found += [level for layer in layers for level in layer]
    return found
