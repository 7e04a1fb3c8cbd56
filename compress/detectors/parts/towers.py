"""The convolution tower of a dense head, shared by all levels of the pyramid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from compress.detector import Dense, Towers
from compress.parts.norm import Norm, group_norm


class TowerLayer(nn.Module):
    """A 3x3 convolution shared by the levels, and its normalisation.

    Each level has its own BatchNorm: levels differ in their statistics, so a shared one would use
    other statistics in evaluation than in training.
    """

    def __init__(self, before: int, width: int, levels: int, norm: Norm | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width, 3, padding=1, bias=norm is None)
        nn.init.normal_(self.conv.weight, std=0.01)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        norms: list[nn.Module] = []
        if norm == "batch":
            norms = [nn.BatchNorm2d(width) for _ in range(levels)]
        elif norm == "group":
            norms = [group_norm(width)]
        self.norms = nn.ModuleList(norms)

    def forward(self, feature: Tensor, level: int) -> Tensor:
        """Return the layer's output for one level, before the ReLU."""
        feature = self.conv(feature)
        if len(self.norms) == 0:
            return feature
        normed: Tensor = self.norms[level if len(self.norms) > 1 else 0](feature)
        return normed


class Tower(nn.Module):
    """`depth` layers with a ReLU after each; depth 0 passes its input on."""

    def __init__(self, before: int, width: int, depth: int, levels: int, norm: Norm | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TowerLayer(before if index == 0 else width, width, levels, norm)
            for index in range(depth)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return one map (B, width, H_l, W_l) per level."""
        return _end(self.traced(features))

    def traced(self, features: Sequence[Tensor], first: int = 0) -> list[tuple[Tensor, ...]]:
        """Return the input of layer `first` and the outputs of it and all later layers.

        Outputs are those before the ReLU, so that entry i holds the maps after i - first layers;
        the input is taken as it is, after the ReLU where one came before.
        """
        found = [tuple(features)]
        for index, layer in enumerate(list(self.layers)[first:]):
            inputs = found[-1] if index == 0 else tuple(F.relu(one) for one in found[-1])
            found.append(tuple(layer(one, level) for level, one in enumerate(inputs)))
        return found


def flatten_cells(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Lay L maps (B, A * channels, H_l, W_l) out as (B, P, channels), row-major, anchor last."""
    import torch

    flat = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps]
    return torch.cat(flat, dim=1)


class TwoTowers(Protocol):
    """A dense head with a tower for classes and one for boxes."""

    class_tower: Tower
    box_tower: Tower


@dataclass(frozen=True)
class Traced:
    """Outputs of both towers by layer; see `Tower.traced`."""

    in_class: list[tuple[Tensor, ...]]
    in_box: list[tuple[Tensor, ...]]

    @property
    def ends(self) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs of the prediction layers."""
        return _end(self.in_class), _end(self.in_box)

    def as_towers(
        self, resume: Callable[[int, Sequence[Tensor], Sequence[Tensor]], Dense]
    ) -> Towers:
        """Convert to the form that losses take."""
        return Towers(tuple(self.in_class), tuple(self.in_box), resume)


def run_towers(head: TwoTowers, features: Sequence[Tensor]) -> Traced:
    """Run both towers on L maps."""
    return Traced(head.class_tower.traced(features), head.box_tower.traced(features))


def finish_towers(
    head: TwoTowers, index: int, in_class: Sequence[Tensor], in_box: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Run the layers from `index` on; return the inputs of the prediction layers."""
    return (
        _end(head.class_tower.traced(in_class, index)),
        _end(head.box_tower.traced(in_box, index)),
    )


def _end(traced: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [F.relu(one) for one in traced[-1]] if len(traced) > 1 else [*traced[-1]]
