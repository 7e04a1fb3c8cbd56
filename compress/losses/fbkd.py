"""FBKD: attention-guided and non-local imitation (Zhang and Ma, ICLR 2021).

Follows the OpenMMLab toolkit: each term is a root of a sum of squares over the whole batch, and
attention weights the feature term but is not itself imitated. The toolkit's channel attention is
computed but unused, so it is left out. Departs from the toolkit in two places: non-local blocks
have no normalisation and the default initialisation, and adapters take any two channel counts.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.alignment import MapLoss, MapSection
from compress.losses.parts.loss import check_weights, weigh
from compress.parts.processes import gather_rows, process_count
from export.config import Levels, NonNegativeFloat, PositiveInt, Temperature

Pair = tuple[Tensor, Tensor]  # student's first


class FbkdConfig(MapSection):
    """Weights of the four terms, and sizes of the non-local blocks."""

    type: Literal["fbkd"]
    feature_weight: NonNegativeFloat = 7e-5
    channel_weight: NonNegativeFloat = 4e-3
    spatial_weight: NonNegativeFloat = 4e-3
    relation_weight: NonNegativeFloat = 7e-5
    temperature: Temperature = 0.5  # of the spatial attention
    levels: Levels = 4  # how many of the finest
    # of channels, in each level's block
    reductions: Annotated[tuple[PositiveInt, ...], Field(max_length=16)] = (4, 4, 2, 2)
    # cells per side that a block looks at as one
    pools: Annotated[tuple[PositiveInt, ...], Field(max_length=16)] = (8, 4, 2, 2)

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = super().check(student, teacher)
        problems += check_weights(*self.weights.values())
        for name, entries in (("reductions", self.reductions), ("pools", self.pools)):
            if len(entries) != self.levels:
                problems.append(
                    f"levels: {self.levels} needs as many {name}, one per level, finest first; "
                    f"it has {len(entries)}"
                )
        return problems

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Fbkd":
        """Return the loss for this pair."""
        return Fbkd(self, student, teacher)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term."""
        return {
            "feature": self.feature_weight,
            "channel": self.channel_weight,
            "spatial": self.spatial_weight,
            "relation": self.relation_weight,
        }


class Fbkd(MapLoss[FbkdConfig]):
    """Four terms; per level a non-local block for each side and adapters for the student."""

    def __init__(self, config: FbkdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.adapters = nn.ModuleList(
            Adapters(config, own, other, level)
            for level, (own, other) in enumerate(
                self.levels.channels(student.channels, teacher.channels)
            )
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002 - maps alone
        """Return `feature`, `channel`, `spatial` and `relation`, each summed over levels."""
        errors = []
        for adapt, (own, other) in zip(
            self.adapters, self.levels.select(student.features, teacher.features), strict=True
        ):
            attention = tuple(
                spatial_attention(maps, self.config.temperature) for maps in (own, other)
            )
            errors.append(level_errors(adapt(own, other), (attention[0], attention[1])))
        return self.weighed(errors)

    def weighed(self, errors: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Sum each term over the levels and multiply it by its weight."""
        return weigh(
            {
                name: (weight, torch.stack([level[name] for level in errors]).sum())
                for name, weight in self.config.weights.items()
                if weight
            }
        )


class Adapters(nn.Module):
    """Adapters of one level, built for the terms with a weight."""

    def __init__(self, config: FbkdConfig, own: int, other: int, level: int) -> None:
        super().__init__()
        shape = config.reductions[level], config.pools[level]
        self.parts = nn.ModuleDict()
        if config.feature_weight:
            self.parts["feature"] = nn.Conv2d(own, other, kernel_size=1)
        if config.channel_weight:
            self.parts["channel"] = nn.Linear(own, other)
        if config.spatial_weight:
            self.parts["spatial"] = nn.Conv2d(1, 1, kernel_size=3, padding=1)
        if config.relation_weight:
            self.parts["relation"] = nn.Sequential(
                NonLocal(own, *shape), nn.Conv2d(own, other, kernel_size=1)
            )
            self.parts["teacher_relation"] = NonLocal(other, *shape)

    def forward(self, own: Tensor, other: Tensor) -> dict[str, Pair]:
        """Return the pair that each term compares, of maps (B, Cs, H, W) and (B, Ct, H, W)."""
        parts, pairs = self.parts, {}
        if "feature" in parts:
            pairs["feature"] = parts["feature"](own), other
        if "channel" in parts:
            pairs["channel"] = parts["channel"](own.mean(dim=(2, 3))), other.mean(dim=(2, 3))
        if "spatial" in parts:
            pooled = own.mean(dim=1, keepdim=True), other.mean(dim=1, keepdim=True)
            pairs["spatial"] = parts["spatial"](pooled[0]), pooled[1]
        if "relation" in parts:
            pairs["relation"] = parts["relation"](own), parts["teacher_relation"](other)
        return pairs


class NonLocal(nn.Module):
    """A non-local block (Wang et al., CVPR 2018) with dot-product similarity."""

    def __init__(self, channels: int, reduction: int, pool: int) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.query = nn.Conv2d(channels, inner, kernel_size=1)
        self.key = nn.Conv2d(channels, inner, kernel_size=1)
        self.value = nn.Conv2d(channels, inner, kernel_size=1)
        self.out = nn.Conv2d(inner, channels, kernel_size=1)
        self.pool = pool

    def forward(self, maps: Tensor) -> Tensor:
        """Return (B, C, H, W): each cell plus the mean of values weighted by similarity.

        Without a softmax, (query x key) x value equals query x (key x value), which needs no
        matrix of all pairs of cells.
        """
        size = [min(self.pool, side) for side in maps.shape[-2:]]
        key = functional.max_pool2d(self.key(maps), size).flatten(2)  # (B, C', cells')
        value = functional.max_pool2d(self.value(maps), size).flatten(2)
        query = self.query(maps).flatten(2)  # (B, C', cells)
        context = value @ key.transpose(1, 2) / key.shape[2]  # (B, C', C')
        return maps + self.out((context @ query).unflatten(2, maps.shape[-2:]))  # type: ignore[no-any-return]


def spatial_attention(maps: Tensor, temperature: float) -> Tensor:
    """Return (B, 1, H, W): a softmax over cells of the mean absolute value, scaled to mean 1."""
    strength = maps.abs().mean(dim=1, keepdim=True)
    cells = strength.shape[2] * strength.shape[3]
    return cells * (strength.flatten(1) / temperature).softmax(dim=1).view_as(strength)


def level_errors(adapted: Mapping[str, Pair], attention: Pair) -> dict[str, Tensor]:
    """Return the root of the summed squared difference of each pair.

    Args:
        adapted: pairs of equal shapes, by term.
        attention: student's and teacher's (B, 1, H, W); their mean weights `feature`'s squares.

    Returns:
        Scalars by term. Where nothing differs, the gradient is 0 and not infinite.
    """
    root = ((attention[0] + attention[1]) / 2).detach().sqrt()
    differences = {name: own - other for name, (own, other) in adapted.items()}
    if "feature" in differences:
        differences["feature"] = root * differences["feature"]
    return {name: norm_of_batch(error) for name, error in differences.items()}


def norm_of_batch(values: Tensor) -> Tensor:
    """Return the root of the sum of the squares of the whole batch."""
    own: Tensor = torch.linalg.vector_norm(values)
    if process_count() == 1:
        return own
    found: Tensor = torch.linalg.vector_norm(gather_rows(own[None]).rows)  # of the norms of all
    return found
