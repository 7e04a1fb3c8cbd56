"""Backbones: torchvision's ResNets and MobileNetV3, any timm model, and a slim ResNet."""

import difflib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Discriminator, Field, Tag
from torch import Tensor, nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock

from compress.parts.norm import Norm, NormLayer, backbone_norm
from export.config import Channels, Section
from export.errors import RecipeError, shown
from export.optional import require

TORCHVISION_BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
)
STAGE_STRIDES = (4, 8, 16, 32)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


Blocks = Annotated[int, Field(ge=1, le=50)]  # ResNet-152 has 36 in a stage


class SlimResNetConfig(Section):
    """A ResNet of basic blocks with a 3x3 stem, small enough to learn on a CPU.

    Channels in multiples of 16 run fastest; some CPU builds of torch abort in the channels_last
    backward pass of others.
    """

    type: Literal["slim_resnet"] = "slim_resnet"
    stem: Channels = 16
    widths: tuple[Channels, Channels, Channels, Channels] = (16, 16, 32, 64)
    blocks: tuple[Blocks, Blocks, Blocks, Blocks] = (1, 1, 1, 1)


_LONGEST = 100  # characters of a name for which near ones are looked for


def _known_name(value: str) -> str:
    """Reject an unknown backbone name and suggest the nearest."""
    if value in TORCHVISION_BACKBONES or (value.startswith("timm/") and len(value) > 5):
        return value
    near = difflib.get_close_matches(value[:_LONGEST], TORCHVISION_BACKBONES, n=2, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise ValueError(
        f"unknown backbone {shown(value)}{hint} Known: {', '.join(TORCHVISION_BACKBONES)}, "
        "timm/<name>, or a section with type: slim_resnet"
    )


def _kind(value: object) -> str:
    return "name" if isinstance(value, str) else "slim_resnet"


BackboneConfig = Annotated[
    Annotated[str, AfterValidator(_known_name), Tag("name")]
    | Annotated[SlimResNetConfig, Tag("slim_resnet")],
    Discriminator(_kind),
]


class Backbone(nn.Module):
    """A body that returns one map per stage and normalises the image itself.

    Attributes:
        channels: per stage, finest first.
        strides: input pixels per cell of each stage, finest first.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        channels: Sequence[int],
        strides: Sequence[int],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.body = body
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the stages' maps (B, C_s, H_s, W_s) of (B, 3, H, W) RGB in 0..1."""
        stages = self.body((images - self.mean) / self.std)
        if isinstance(stages, Mapping):
            stages = stages.values()
        return tuple(
            # some transformers of timm put the channels last
            stage if stage.shape[1] == channels else stage.permute(0, 3, 1, 2)
            for stage, channels in zip(stages, self.channels, strict=True)
        )


def build_backbone(config: str | SlimResNetConfig, strides: Sequence[int], norm: Norm) -> Backbone:
    """Build a backbone with random weights that ends with the coarsest of `strides`.

    Args:
        config: a name or a slim ResNet's section.
        strides: the stages wanted, out of 4, 8, 16, 32, ascending.
        norm: the normalisation layers.

    Raises:
        RecipeError: timm has no such model, or none with these strides.
        MissingDependencyError: timm is asked for and not installed.
    """
    if isinstance(config, SlimResNetConfig):
        return _slim_resnet(config, strides, backbone_norm(norm))
    if config.startswith("timm/"):
        return _timm(config.removeprefix("timm/"), strides, norm)
    if config.startswith("mobilenet"):
        return _mobilenet(config, strides, norm)
    model = models.get_model(config, weights=None, norm_layer=backbone_norm(norm))
    names = {f"layer{STAGE_STRIDES.index(s) + 1}": str(s) for s in strides}
    blocks = [getattr(model, name)[-1] for name in names]
    channels = [
        block.conv2.out_channels if isinstance(block, BasicBlock) else block.conv3.out_channels
        for block in blocks
    ]
    return Backbone(IntermediateLayerGetter(model, names), channels, strides)


def _slim_resnet(config: SlimResNetConfig, strides: Sequence[int], norm: NormLayer) -> Backbone:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(3, config.stem, 3, stride=2, padding=1, bias=False)
    layers["bn1"] = norm(config.stem)
    layers["relu"] = nn.ReLU(inplace=True)
    layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    widths = (config.stem, *config.widths)
    for index, (before, width) in enumerate(pairwise(widths)):
        step = 1 if index == 0 else 2
        layers[f"layer{index + 1}"] = _stage(before, width, config.blocks[index], step, norm)
    for module in nn.ModuleDict(layers).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    names = {f"layer{STAGE_STRIDES.index(s) + 1}": str(s) for s in strides}
    channels = [config.widths[STAGE_STRIDES.index(s)] for s in strides]
    return Backbone(IntermediateLayerGetter(nn.Sequential(layers), names), channels, strides)


def _stage(before: int, width: int, blocks: int, step: int, norm: NormLayer) -> nn.Sequential:
    shortcut = None
    if step != 1 or before != width:
        conv = nn.Conv2d(before, width, 1, stride=step, bias=False)
        shortcut = nn.Sequential(conv, norm(width))
    first = BasicBlock(before, width, step, shortcut, norm_layer=norm)
    rest = [BasicBlock(width, width, norm_layer=norm) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _mobilenet(name: str, strides: Sequence[int], norm: Norm) -> Backbone:
    # torchvision's own choice of epsilon and momentum for this family stays with "batch"
    options = {} if norm == "batch" else {"norm_layer": backbone_norm(norm)}
    features = models.get_model(name, weights=None, **options).features
    stride, last = 1, {}
    for index, block in enumerate(features):
        if any(isinstance(m, nn.Conv2d) and m.stride[0] == 2 for m in block.modules()):
            stride *= 2
        last[stride] = index
    channels = [_out_channels(features[last[s]]) for s in strides]
    body = IntermediateLayerGetter(features, {str(last[s]): str(s) for s in strides})
    return Backbone(body, channels, strides)


def _out_channels(block: nn.Module) -> int:
    return [m for m in block.modules() if isinstance(m, nn.Conv2d)][-1].out_channels


def require_timm_model(name: str) -> ModuleType:
    """Return timm, which has a model of this name.

    Raises:
        RecipeError: it has none; the message names similar ones.
        MissingDependencyError: timm is not installed.
    """
    timm = require("timm", extra="timm", purpose=f"backbone timm/{name}")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name[:_LONGEST], timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join('timm/' + other for other in near)}?" if near else ""
        raise RecipeError(f"backbone: timm has no model {shown(name)}{hint}")
    return timm


def _timm(name: str, strides: Sequence[int], norm: Norm) -> Backbone:
    timm = require_timm_model(name)
    with torch.device("meta"):  # only to read its strides
        offered = timm.create_model(name, features_only=True).feature_info.reduction()
    missing = [s for s in strides if s not in offered]
    if missing:
        raise RecipeError(
            f"backbone: timm/{name} gives maps of strides {list(offered)}, "
            f"and strides {missing} are needed; set `strides` or choose another backbone"
        )
    # the deepest map of each stride
    indices = [len(offered) - 1 - offered[::-1].index(s) for s in strides]
    body = timm.create_model(name, features_only=True, out_indices=indices)
    config = getattr(body, "pretrained_cfg", None) or {}
    if norm == "frozen":
        body = timm.layers.freeze_batch_norm_2d(body)
    return Backbone(
        body,
        body.feature_info.channels(),
        strides,
        mean=config.get("mean", IMAGENET_MEAN),
        std=config.get("std", IMAGENET_STD),
    )
