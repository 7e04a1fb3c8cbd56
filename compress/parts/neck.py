"""The feature pyramid: torchvision's FPN, and the levels beyond the backbone's coarsest."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from compress.parts.norm import Norm, neck_norm

Extra = Literal["pool", "conv"]


class ExtraLevels(ExtraFPNBlock):  # type: ignore[misc]
    """Levels of twice the stride each, made from the coarsest map of the pyramid.

    `pool` takes every second cell (Faster R-CNN's P6); `conv` is a 3x3 convolution of stride 2
    per level, with a ReLU between two of them (RetinaNet's P6 and P7).
    """

    def __init__(self, width: int, count: int, kind: Extra) -> None:
        super().__init__()
        self.count = count
        convs = [
            nn.Conv2d(width, width, 3, stride=2, padding=1)
            for _ in range(count if kind == "conv" else 0)
        ]
        for conv in convs:
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        self.convs = nn.ModuleList(convs)

    def forward(
        self, results: list[Tensor], _: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        """Append the levels to the pyramid's own maps and their names."""
        levels = list(results)
        for index in range(self.count):
            if self.convs:
                source = levels[-1] if index == 0 else F.relu(levels[-1])
                levels.append(self.convs[index](source))
            else:
                levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return levels, [*names, *(f"extra{index}" for index in range(self.count))]


class Neck(nn.Module):
    """Backbone stages to a pyramid of equal width, finest first."""

    def __init__(
        self, channels: Sequence[int], width: int, extra: int, kind: Extra, norm: Norm
    ) -> None:
        super().__init__()
        self.width = width
        self.fpn = FeaturePyramidNetwork(
            list(channels),
            width,
            extra_blocks=ExtraLevels(width, extra, kind) if extra else None,
            norm_layer=neck_norm(norm),
        )

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return L levels of (B, width, H_l, W_l) from the stages' maps, finest first."""
        maps = OrderedDict((str(index), stage) for index, stage in enumerate(stages))
        return tuple(self.fpn(maps).values())
