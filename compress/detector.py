"""The interface of every detector family: spec, outputs, candidates."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from compress.batch import Batch, Targets

# What a loss may ask of a detector:
#   features  maps of the pyramid, after the neck        backbone  maps of the backbone's stages
#   dense     class logits, deltas and boxes per location  dfl     box distributions per location
#   anchors   anchor boxes per level                       towers  the dense head's layers
#   rois      class logits and deltas on shared proposals  task    task losses, also in eval mode
#   queries   a decoder's queries, and its answers to those of others
#   boxes     of a teacher: what it found on the pictures before the training (`Batch.taught`)
Knowledge = Literal[
    "features", "backbone", "anchors", "dense", "dfl", "towers", "rois", "queries", "task", "boxes"
]
Wanted = frozenset[Knowledge]
FEATURES: Wanted = frozenset({"features"})
BEFOREHAND: Wanted = frozenset({"boxes"})  # any teacher has it, and need not run in a step for it


class TowerChannels(NamedTuple):
    """Channels of the maps of a dense head's towers, one per pyramid level, finest first."""

    in_class: tuple[int, ...]
    in_box: tuple[int, ...]


@dataclass(frozen=True)
class DetectorSpec:
    """The properties of a detector that a loss or another detector depends on.

    Attributes:
        family: the recipe's `type`.
        num_classes: K; labels are 0..K-1, background never leaves an adapter.
        channels: C_l, one per pyramid level, finest first.
        strides: input pixels per cell, one per level.
        backbone_channels: one per backbone stage that `Outputs.backbone` holds.
        backbone_strides: input pixels per cell of these stages.
        provides: what a loss may ask of this family.
        locations: description of the P dense locations and the encoding of deltas; dense outputs of
            two detectors are comparable only where it is equal. Empty without "dense".
        dfl_bins: reg_max + 1 of the box distributions; 0 without "dfl".
        tower_depth: layers of each tower of the dense head; 0 without "towers".
        tower_channels: channels of every layer of both towers, or where levels or towers differ,
            those of each; 0 without "towers".
        embedding_channels: D of `Rois.embeddings`; 0 without "rois".
        query_channels: D of `Queries.content`; 0 without "queries".
        classes: the K names in order, where a run knows them; empty elsewhere.
        nms_free: whether the head gives one box per object, so that no NMS follows.
        licence: package, version and licence of code that the detector is made of and that differs
            from this project's; empty where there is none.
    """

    family: str
    num_classes: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    backbone_channels: tuple[int, ...]
    backbone_strides: tuple[int, ...]
    provides: frozenset[Knowledge]
    locations: str = ""
    dfl_bins: int = 0
    tower_depth: int = 0
    tower_channels: "int | TowerChannels" = 0
    embedding_channels: int = 0
    query_channels: int = 0
    classes: tuple[str, ...] = ()
    nms_free: bool = False
    licence: str = ""

    @property
    def finds_objects(self) -> bool:
        """Whether it has a head; one that has features alone is a bare backbone."""
        return bool(self.provides - {"features"})

    def tower_widths(self, index: int) -> TowerChannels:
        """Return the channels of both towers' maps after their first `index` layers."""
        if index == 0:
            return TowerChannels(self.channels, self.channels)
        if isinstance(self.tower_channels, int):
            same = (self.tower_channels,) * len(self.strides)
            return TowerChannels(same, same)
        return self.tower_channels


def unmatched(pictures: Sequence[object]) -> Tensor:
    """Raise: the placeholder for the assigner of predictions that have none."""
    raise ValueError(f"these predictions have no assigner for {len(pictures)} pictures")


@dataclass(frozen=True)
class Dense:
    """Predictions at P locations (anchors or points), level-major, row-major, then anchor.

    Attributes:
        class_logits: (B, P, K) before the sigmoid.
        deltas: (B, P, 4) raw regression outputs in the family's own encoding.
        boxes: (B, P, 4) decoded xyxy, input pixels, not clipped.
        assign: given one (n, 4) box tensor per picture, the (B, P) bool mask of the locations
            that this detector's own assigner would make positive if these were ground truth.
        dfl_logits: (B, P, 4 * (reg_max + 1)) edges l, t, r, b, then bin; None without "dfl".
        match: the assignment of the task loss: given the targets of every picture, (B, P) int64,
            the index of a location's box in the boxes of all pictures laid end to end, -1 for a
            negative, -2 for one that the task loss ignores.
        level_counts: how many of the P locations each level has, finest first.
        background_logits: (B, P) log-odds of background, where the classes are a softmax with it
            and `class_logits` are log-odds too; None where each class has a score of its own.
        one_to_one: predictions of a further branch with one box per object, at the same locations;
            None without one, and where nothing is trained.
    """

    class_logits: Tensor
    deltas: Tensor
    boxes: Tensor
    assign: Callable[[Sequence[Tensor]], Tensor]
    dfl_logits: Tensor | None = None
    match: Callable[[Sequence[Targets]], Tensor] = unmatched
    level_counts: tuple[int, ...] = ()
    background_logits: Tensor | None = None
    one_to_one: "Dense | None" = None


@dataclass(frozen=True)
class Towers:
    """The two towers of a dense head, layer by layer.

    All levels may share a tower, or each may have its own of its own width
    (`DetectorSpec.tower_channels`). A layer is what ends with an activation, such as a convolution
    with its normalisation, or a block of several.

    Attributes:
        class_maps: entry i is the class tower after its first i layers, before the activation of
            the last of them: L maps (B, C_l, H_l, W_l). Entry 0 is the pyramid's maps.
        box_maps: the same of the box tower.
        resume: `resume(i, class_maps, box_maps)` runs this detector's own layers i.. and its
            prediction layers on L maps each (after `activation`, if i > 0), and returns the
            predictions. Weights of a frozen detector take no gradient, the maps do.
        activation: activation of the layers.
    """

    class_maps: tuple[tuple[Tensor, ...], ...]
    box_maps: tuple[tuple[Tensor, ...], ...]
    resume: "Callable[[int, Sequence[Tensor], Sequence[Tensor]], Dense]"
    activation: Callable[[Tensor], Tensor] = functional.relu


@dataclass(frozen=True)
class Queries:
    """Queries of a transformer's decoder and its predictions for them; Q per picture.

    Attributes:
        content: (B, Q, D) what enters the first layer, detached.
        references: (B, Q, 4) the boxes that the first layer starts from, detached: x and y of the
            centre, width and height in shares of the input, before a sigmoid; infinite for 1.
        class_logits: (N, B, Q, K) before the sigmoid, of N layers, the last one last; in eval mode
            of the last one alone.
        boxes: (N, B, Q, 4) xyxy, input pixels, not clipped.
        probe: `probe(content, references)` passes R queries per picture, (B, R, D) and (B, R, 4),
            through this detector's own decoder on the same pictures. They see one another and none
            of the detector's own queries. Weights of a frozen detector take no gradient.
        match: the one-to-one assignment of the task loss, layer by layer: given the targets of
            every picture, (N, B, Q) int64, the index of a query's box in the boxes of all pictures
            laid end to end, -1 for none.
    """

    content: Tensor
    references: Tensor
    class_logits: Tensor
    boxes: Tensor
    probe: "Callable[[Tensor, Tensor], Queries]"
    match: Callable[[Sequence[Targets]], Tensor] = unmatched


@dataclass(frozen=True)
class Rois:
    """Proposals of a two-stage head and its predictions on them; R over the whole batch.

    Attributes:
        boxes: one (R_b, 4) xyxy tensor per picture, input pixels.
        labels: (R,) int64; K marks background.
        class_logits: (R, K + 1); the last column is background.
        deltas: (R, K, 4) class-specific regression outputs.
        target_deltas: (R, 4) regression targets for `deltas` of the row's label; 0 for background.
        embeddings: (R, D) the last hidden layer of the box head.
        predicted: (R, 4) xyxy, input pixels, not clipped: the box moved by `deltas` of the row's
            label; undefined for background.
        move: `move(deltas, boxes)` moves xyxy boxes (n, 4) by the deltas (n, 4) of one class each.
    """

    boxes: tuple[Tensor, ...]
    labels: Tensor
    class_logits: Tensor
    deltas: Tensor
    target_deltas: Tensor | None = None
    embeddings: Tensor | None = None
    predicted: Tensor | None = None
    move: Callable[[Tensor, Tensor], Tensor] | None = None

    def only(self, kept: Tensor) -> "Rois":
        """Return the rows that `kept` (R,) bool marks, in their order."""
        parts = torch.split(kept, [len(own) for own in self.boxes])

        def chosen(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[kept]

        return Rois(
            tuple(own[part] for own, part in zip(self.boxes, parts, strict=True)),
            self.labels[kept],
            self.class_logits[kept],
            self.deltas[kept],
            chosen(self.target_deltas),
            chosen(self.embeddings),
            chosen(self.predicted),
            self.move,
        )


def deltas_of(labels: Tensor, deltas: Tensor) -> Tensor:
    """Select from deltas (R, K, 4) those of each row's label, (R, 4); arbitrary for background."""
    rows = torch.arange(len(labels), device=labels.device)
    return deltas[rows, labels.clamp(max=deltas.shape[1] - 1)]


@dataclass(frozen=True)
class Outputs:
    """The outputs of one forward pass; what was not wanted is empty.

    Attributes:
        features: L levels of (B, C_l, H_l, W_l), after the neck, finest first.
        backbone: stages of (B, C_s, H_s, W_s), finest first.
        dense: one-stage predictions, or a two-stage detector's proposal network (K = 1 object).
        rois: two-stage predictions on proposals.
        task_losses: named scalars, in train mode or when "task" is wanted; attached to the graph
            also when zero.
        anchors: L tensors (H_l * W_l * A, 4) xyxy, row-major, then anchor; only when wanted.
        towers: the dense head's layers; only when wanted.
        queries: queries of a transformer's decoder; only when wanted.
    """

    features: tuple[Tensor, ...]
    backbone: tuple[Tensor, ...] = ()
    dense: Dense | None = None
    rois: Rois | None = None
    task_losses: dict[str, Tensor] = field(default_factory=dict)
    anchors: tuple[Tensor, ...] = ()
    towers: Towers | None = None
    queries: Queries | None = None


class Candidates(NamedTuple):
    """Boxes before NMS with a fixed P, as in the ONNX graph. Padding has score -1.

    Shapes: boxes (B, P, 4) xyxy input pixels, clipped to the input; scores (B, P) in 0..1;
    labels (B, P) int32 in 0..K-1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detector(nn.Module, ABC):
    """Base class of the detector families. Boxes are xyxy pixels of the letterboxed input.

    Attributes:
        resting: names of modules that stay in eval mode while the rest trains.
        norm_eval: whether BatchNorm layers of the backbone do.
    """

    spec: DetectorSpec
    backbone: nn.Module
    neck: nn.Module
    resting: tuple[str, ...] = ()
    norm_eval: bool = False

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules but those that rest."""
        super().train(mode)
        for name in self.resting:
            self.get_submodule(name).eval()
        if self.norm_eval:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the pyramid's maps of (B, 3, H, W); no head runs, no loss is computed."""
        return tuple(self.neck(self.backbone(images)))

    def at(self, step: int, total: int) -> None:
        """Receive the current `step` (0-based) of `total` of the training of this detector."""

    def renamed(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a weights file under this detector's own names.

        A family whose weights come from another library translates that library's names.
        """
        return dict(found)

    def class_rows(self) -> frozenset[str]:
        """Return the names of tensors of which each row stands for a class, in label order.

        Empty where there are none, or where a class has several rows or columns.
        """
        return frozenset()

    @abstractmethod
    def forward(
        self,
        batch: Batch,
        wanted: Wanted = FEATURES,
        rois: Rois | None = None,
    ) -> Outputs:
        """Pass a batch and return what is `wanted`.

        In train mode, or with "task" wanted, task losses of the labelled pictures come with it. In
        eval mode nothing is computed beyond what `wanted` needs: features alone run no head. With
        "rois" wanted, a two-stage head proposes, samples against the targets (its training
        sampler, also in eval mode) and scores the sample; given `rois` it scores those boxes
        instead and keeps their labels, while its task losses still come from its own sampling. On
        pictures without labels, for which all proposals are background, it samples against
        `Batch.taught` where a teacher found something.
        """

    @abstractmethod
    def candidates(self, images: Tensor) -> Candidates:
        """Return boxes before NMS for (B, 3, H, W) RGB in [0, 1]; this is also the ONNX graph."""
