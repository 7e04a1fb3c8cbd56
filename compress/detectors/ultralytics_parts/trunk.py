"""Backbone, neck and head of a model of `ultralytics`, and the names of their weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from compress.detector import Detector, DetectorSpec
from compress.detectors.parts.settings import check_input_size, map_sizes
from compress.detectors.ultralytics_parts.layer_graph import LayerGraph, channels_and_strides
from compress.detectors.ultralytics_parts.package import build_network
from compress.detectors.ultralytics_parts.settings import NamedModel

NAME = re.compile(r"(?:model\.)?model\.(\d+)\.(.+)")
CONSTANT = "dfl.conv.weight"  # 0, 1, 2, ...: the bins of a distribution, never trained


@dataclass(frozen=True)
class UltralyticsTrunk:
    """The parts of a detector.

    Attributes:
        backbone: images to the stages that the neck takes, finest first.
        neck: stages to the pyramid's maps.
        head: the package's own head.
        channels: C_l of the pyramid.
        strides: input pixels per cell of the pyramid.
        map_sizes: height and width in cells of the pyramid.
        backbone_channels: channels of the stages.
        backbone_strides: strides of the stages.
        names: names of its weights in the package.
        licence: package, version and licence.
    """

    backbone: LayerGraph
    neck: LayerGraph
    head: nn.Module
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    map_sizes: list[tuple[int, int]]
    backbone_channels: tuple[int, ...]
    backbone_strides: tuple[int, ...]
    names: "PackageNames"
    licence: str


@dataclass(frozen=True)
class PackageNames:
    """Names of weights in the package, `model.N.*`, and here.

    Attributes:
        first_of_neck: number of the neck's first layer.
        head: number of the head.
    """

    first_of_neck: int
    head: int

    def renamed(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors named `model.N.*`, as the package names them, under our names.

        Other names are left as they are.
        """
        parts = {name: NAME.fullmatch(name) for name in found}
        if not all(parts.values()):
            return dict(found)
        return {
            self.own_name(int(part[1]), part[2]): found[name]
            for name, part in parts.items()
            if part is not None and part[2] != CONSTANT
        }

    def own_name(self, number: int, rest: str) -> str:
        """Return our name of a tensor of a layer."""
        if number == self.head:
            return f"head.{rest}"
        part = "backbone" if number < self.first_of_neck else "neck"
        return f"{part}.layers.{number}.{rest}"


class UltralyticsDetector(Detector):
    """Base of the detectors made of a model of the package, split into backbone, neck and head."""

    head: Any  # of the package

    def __init__(
        self,
        config: NamedModel,
        num_classes: int,
        input_size: tuple[int, int],
        trunk: UltralyticsTrunk,
    ) -> None:
        super().__init__()
        self.names = trunk.names
        self.backbone, self.neck, self.head = trunk.backbone, trunk.neck, trunk.head
        self.input_size, self.num_classes = input_size, num_classes
        self.map_sizes = trunk.map_sizes
        self.spec = DetectorSpec(
            family=config.type,
            num_classes=num_classes,
            channels=trunk.channels,
            strides=trunk.strides,
            backbone_channels=trunk.backbone_channels,
            backbone_strides=trunk.backbone_strides,
            provides=frozenset({"features", "backbone", "task"}),
            licence=trunk.licence,
        )

    def renamed(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate the package's names; see `Detector.renamed`."""
        return self.names.renamed(found)


def build_ultralytics(
    model: str, num_classes: int, input_size: tuple[int, int], momentum: float
) -> UltralyticsTrunk:
    """Build a model with random weights for inputs of (height, width) pixels.

    Args:
        model: its name, such as yolo11n.
        num_classes: K.
        input_size: height and width.
        momentum: momentum of BatchNorm's running statistics.

    Raises:
        RecipeError: a side is not a multiple of 32.
        MissingDependencyError: the package is missing or of another version.
    """
    check_input_size(input_size)
    network = build_network(model, num_classes, momentum)
    *body, head = network.layers
    layers, sources = dict(enumerate(body)), dict(enumerate(network.sources))
    first, last = network.backbone, len(body)
    stages = sorted({one for n in range(first, last) for one in sources[n] if one < first})
    backbone = LayerGraph({n: layers[n] for n in range(first)}, sources, (-1,), stages)
    neck = LayerGraph({n: layers[n] for n in range(first, last)}, sources, stages, sources[last])
    of_backbone, of_neck = channels_and_strides([backbone, neck])
    return UltralyticsTrunk(
        backbone,
        neck,
        head,
        *of_neck,
        map_sizes(input_size, of_neck[1]),
        *of_backbone,
        PackageNames(first, last),
        network.licence,
    )
