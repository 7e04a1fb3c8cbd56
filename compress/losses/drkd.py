"""DRKD: imitate relations between pixels and between instances (Ni et al., 2023).

Reconstructed from a third party's summary; no code is released, so the results were not compared
with the authors'. Our own choices are: all default weights and sizes, the normalisation of the
terms, the residual around the graph, and that both sides use the same graph and projections, which
are trained through the student's side only (a trainable target would collapse to zero).

Where the teacher's levels differ in channels, an instance is compared with those of its level, its
error averaged over them. Relations need one space: a 1x1 convolution per level, shared by both
sides as the other projections are, brings the instances to the widest level's channels first.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from compress.batch import Batch, boxes_per_image
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.levels import check_levels, pair_levels
from compress.losses.parts.loss import DistillationLoss, LossSection, Source, check_weights, weigh
from compress.losses.parts.patches import Space, instance_error, join_spaces, pool_spaces
from compress.parts.processes import mean_of_batch, over_batch
from export.config import Channels, NonNegativeFloat


class DrkdConfig(LossSection):
    """Sizes of the graph and the relations, and the weights of the terms."""

    written_from: ClassVar[Source] = "reconstructed"

    type: Literal["drkd"]
    pixel_weight: NonNegativeFloat = 1.0
    relation_weight: NonNegativeFloat = 10.0
    instance_weight: NonNegativeFloat = 1.0
    nodes: Channels = 32  # C_2
    node_channels: Channels = 64  # C_1
    relation_channels: Channels = 64
    roi_size: int = Field(default=7, ge=1, le=64)

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        return check_levels(student, teacher) or check_weights(
            self.pixel_weight, self.relation_weight, self.instance_weight
        )

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Drkd":
        """Return the loss for this pair."""
        return Drkd(self, student, teacher)


class Drkd(DistillationLoss[DrkdConfig]):
    """Pixel relation, instance relation and instance feature terms."""

    def __init__(self, config: DrkdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.levels = pair_levels(student, teacher)
        channels = self.levels.channels(student.channels, teacher.channels)
        self.adapters = nn.ModuleList(
            nn.Conv2d(own, other, kernel_size=1) for own, other in channels
        )
        graphs = channels if config.pixel_weight else []
        self.graphs = nn.ModuleList(
            PixelGraph(other, config.node_channels, config.nodes) for _, other in graphs
        )
        self.after = nn.ModuleList(nn.Conv2d(other, other, kernel_size=1) for _, other in graphs)
        widths = [other for _, other in channels]
        uneven = config.relation_weight and len(set(widths)) > 1
        self.common = nn.ModuleList(
            nn.Conv2d(other, max(widths), kernel_size=1, bias=False) for other in widths if uneven
        )
        self.relation: InstanceRelation | None = None
        if config.relation_weight:
            length = max(widths) * config.roi_size**2
            self.relation = InstanceRelation(length, config.relation_channels)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `pixel_relation`, `instance_relation` and `instance`.

        The latter two use ground-truth boxes; a picture without boxes adds nothing to them.
        """
        config = self.config
        maps = [
            (adapt(own), other)
            for adapt, (own, other) in zip(
                self.adapters, self.levels.select(student.features, teacher.features), strict=True
            )
        ]
        found: dict[str, tuple[float, Tensor]] = {}
        if config.pixel_weight:
            errors = []
            for graph, after, (own, other) in zip(self.graphs, self.after, maps, strict=True):
                with torch.no_grad():
                    wanted = graph(other)
                errors.append((after(graph(own)) - wanted).square().mean())
            found["pixel_relation"] = (
                config.pixel_weight,
                mean_of_batch(torch.stack(errors).mean(), len(batch.images)),
            )
        if config.relation_weight or config.instance_weight:
            boxes = boxes_per_image(batch.targets)
            spaces = pool_spaces(maps, self.levels.strides, boxes, config.roi_size)
            if self.relation is not None:
                one = self._one_space(spaces)
                error = self.relation(one.student.flatten(1), one.teacher.flatten(1), one.counts)
                found["instance_relation"] = (config.relation_weight, error)
            found["instance"] = (
                config.instance_weight,
                instance_error(spaces, over_channels=True),
            )
        return weigh(found)

    def _one_space(self, spaces: Sequence[Space]) -> Space:
        """Return the instances of all levels, projected to equal channels where these differ."""
        if len(self.common) == 0:
            return spaces[0]
        return join_spaces(
            [
                Space(project(space.student), project(space.teacher), space.counts)
                for project, space in zip(self.common, spaces, strict=True)
            ]
        )


class PixelGraph(nn.Module):
    """Graph reasoning over a map: project cells to nodes, mix the nodes, project back.

    Cells are assigned to nodes by a softmax; a node is the weighted mean of its cells; nodes are
    mixed by I - A and a linear layer, projected back with the same weights and added to the map.
    """

    def __init__(self, channels: int, node_channels: int, nodes: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, node_channels, kernel_size=1)
        self.assign = nn.Conv2d(channels, nodes, kernel_size=1)
        self.adjacency = nn.Parameter(torch.zeros(nodes, nodes))
        self.mix = nn.Linear(node_channels, node_channels, bias=False)
        self.restore = nn.Conv2d(node_channels, channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return a map (B, C, H, W) of the same size."""
        cells = self.project(features).flatten(2)  # (B, C1, HW)
        share = self.assign(features).flatten(2).softmax(dim=1)  # (B, C2, HW)
        nodes = share @ cells.transpose(1, 2)  # (B, C2, C1)
        nodes = nodes / share.sum(dim=2, keepdim=True).clamp(min=1e-6)
        mixed = self.mix(nodes - self.adjacency @ nodes)
        returned = (mixed.transpose(1, 2) @ share).unflatten(2, features.shape[-2:])
        restored: Tensor = features + self.restore(returned)
        return restored


class InstanceRelation(nn.Module):
    """Relations between all pairs of instances of a picture, compared by squared difference.

    A relation is the inner product of two projections, multiplied by a gate computed from the pair,
    then normalised by a softmax over all ordered pairs of the picture.
    """

    def __init__(self, length: int, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(length, channels, bias=False) for _ in range(2))
        # one linear layer on the concatenated pair, applied to each part
        self.gate_first = nn.Linear(length, 1)
        self.gate_second = nn.Linear(length, 1, bias=False)

    def forward(self, own: Tensor, other: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the squared difference summed over pairs, averaged over pictures with instances.

        Args:
            own: (G, V) the student's instances, picture by picture.
            other: (G, V) the teacher's.
            counts: how many each picture has; they sum to G.
        """
        split = list(counts)
        present = pad_sequence([torch.ones(n, dtype=torch.bool) for n in split], batch_first=True)
        present = present.to(own.device)
        pairs = (present[:, :, None] & present[:, None]).flatten(1)  # (B, n * n)
        mine = self.relate(pad_sequence(list(torch.split(own, split)), batch_first=True), pairs)
        with torch.no_grad():
            wanted = self.relate(
                pad_sequence(list(torch.split(other, split)), batch_first=True), pairs
            )
        pictures = sum(count > 0 for count in counts)
        return over_batch((mine - wanted).square().sum(), pictures)

    def relate(self, vectors: Tensor, pairs: Tensor) -> Tensor:
        """Return (B, n * n) relations of (B, n, V) vectors; 0 where `pairs` is False."""
        product: Tensor = self.first(vectors) @ self.second(vectors).transpose(1, 2)
        scale = self.first.out_features**0.5
        gate: Tensor = (
            self.gate_first(vectors) + self.gate_second(vectors).transpose(1, 2)
        ).sigmoid()
        strength = (gate * product / scale).flatten(1)
        # a softmax over no pair is NaN
        hidden = strength.masked_fill(~pairs, torch.finfo(strength.dtype).min)
        relations: Tensor = hidden.softmax(dim=1) * pairs
        return relations
