"""The normalisation layers of a detector's parts, by the recipe's `norm`."""

from collections.abc import Callable
from typing import Literal

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

Norm = Literal["batch", "frozen", "group"]
NormLayer = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of at most 32 groups with at least 4 channels each, where that divides."""
    groups = max(g for g in range(1, 33) if channels % g == 0 and (channels >= 4 * g or g == 1))
    return nn.GroupNorm(groups, channels)


def backbone_norm(norm: Norm) -> NormLayer:
    """Return the layer for a backbone; `frozen` keeps the statistics that its weights bring."""
    layers: dict[Norm, NormLayer] = {
        "batch": nn.BatchNorm2d,
        "frozen": FrozenBatchNorm2d,
        "group": group_norm,
    }
    return layers[norm]


def neck_norm(norm: Norm) -> NormLayer | None:
    """Return the layer for a pyramid; none under `frozen`, for new layers have no statistics."""
    return None if norm == "frozen" else backbone_norm(norm)
