"""The towers of a YOLO's head: per level, blocks of convolutions and a prediction layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Blocks = Sequence[Any]  # an nn.Sequential per level: blocks, then the prediction layer


@dataclass(frozen=True)
class Traced:
    """A tower's pass, block by block.

    Attributes:
        maps: entry i is what the first i blocks give, before the activation of the last of them;
            L maps each. Entry 0 is the pyramid's maps.
        predictions: L maps.
    """

    maps: tuple[tuple[Tensor, ...], ...]
    predictions: list[Tensor]


def run_tower(tower: Blocks, features: Sequence[Tensor]) -> Traced:
    """Pass L maps through a tower and keep what every block gives."""
    levels, predictions = [], []
    for level, feature in zip(tower, features, strict=True):
        *blocks, predict = level
        kept: list[Tensor] = [feature]
        value: Any = feature
        for block in blocks:
            layers: list[Any] = list(block) if isinstance(block, nn.Sequential) else [block]
            *first, last = layers
            for layer in first:
                value = layer(value)
            kept.append(last.bn(last.conv(value)))
            value = last.act(kept[-1])
        levels.append(kept)
        predictions.append(predict(value))
    return Traced(tuple(zip(*levels, strict=True)), predictions)


def finish_tower(tower: Blocks, index: int, maps: Sequence[Tensor]) -> list[Tensor]:
    """Return the predictions of the blocks from `index` on for L maps, after the activation."""
    return [level[index:](value) for level, value in zip(tower, maps, strict=True)]


def depth(tower: Blocks) -> int:
    """Return how many blocks a tower has."""
    return len(tower[0]) - 1


def widths(tower: Blocks) -> tuple[int, ...]:
    """Return the channels of a tower's last block, one per level."""
    return tuple(int(level[-1].in_channels) for level in tower)
