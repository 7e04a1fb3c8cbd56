"""The convolution tower of a dense head, shared by all levels of the pyramid."""

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from compress.norm import Norm, group_norm


class TowerLayer(nn.Module):
    """A 3x3 convolution shared by the levels, and its normalisation.

    Levels differ in their statistics: a BatchNorm shared by them would normalise with one set in
    training and with another in evaluation, so each level has its own.
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
        outputs = []
        for level, feature in enumerate(features):
            for layer in self.layers:
                feature = F.relu(layer(feature, level))
            outputs.append(feature)
        return outputs


def flatten_cells(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Lay L maps (B, A * channels, H_l, W_l) out as (B, P, channels), row-major, anchor last."""
    import torch

    flat = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps]
    return torch.cat(flat, dim=1)
