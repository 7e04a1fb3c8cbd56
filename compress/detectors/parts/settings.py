"""Settings of all detector families, and their defaults by input size."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from typing_extensions import Self

from compress.detector import Detector
from compress.parts.backbones import (
    Backbone,
    BackboneConfig,
    SlimResNetConfig,
    build_backbone,
)
from compress.parts.neck import Extra, Neck
from compress.parts.norm import Norm
from export.config import Channels, ClashError, LocalFile, LocalPath, Section
from export.errors import RecipeError

COARSEST_STAGE = 32  # stride of the backbone's last stage
Stride = Annotated[int, Field(ge=1, le=128)]


class DetectorSection(Section, ABC):
    """The base of the settings of all families.

    A subclass narrows `type` to a literal, adds its own fields and defines `build`.
    """

    type: str
    weights: LocalPath | None = None  # a whole detector: local .safetensors, .pt or .pth
    # a file as of `weights` of which all that fits is copied, as to start from other classes
    transfer: LocalPath | None = None

    @abstractmethod
    def build(self, num_classes: int, input_size: tuple[int, int]) -> Detector:
        """Build a detector with random weights for inputs of (height, width) pixels."""

    @classmethod
    def missing_package(cls) -> str | None:
        """Return the package that the family needs and that is not installed; None if none is."""
        return None

    def without_files(self) -> Self:
        """Return these settings without the files that a training begins from."""
        return self.model_copy(update={"weights": None, "transfer": None})

    def backbone_source(self) -> tuple[str | SlimResNetConfig, str] | None:
        """Return the backbone and the source of its weights; None: random weights."""
        return None

    @property
    def begins_trained(self) -> bool:
        """Whether a file gives the backbone its first weights."""
        return bool(self.weights or self.transfer or self.backbone_source())

    def advise(self, lr: float, clip: float | None) -> str | None:  # noqa: ARG002 - of few families
        """Return why a learning rate or limit of the gradients is unlikely to train this family.

        Args:
            lr: the largest learning rate.
            clip: the largest L2 norm of all gradients; None: no limit.
        """
        return None

    def largest(self) -> tuple[int, int]:
        """Return about how many channels and weights the model has, at most, without building it.

        Zeros where no setting makes it large.
        """
        return 0, 0

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.weights is not None and self.transfer is not None:
            raise ClashError(
                "give weights (the file fills the whole detector) or transfer (what fits is copied "
                "and the rest is random), not both",
                *("weights", "transfer"),
            )
        return self


class DetectorSettings(DetectorSection):
    """The base of the settings of families made of a backbone, a pyramid and a head.

    `None` chooses a value by the input size.
    """

    backbone: BackboneConfig
    width: Channels = 256  # channels of the pyramid
    # batch: a BatchNorm per level in heads that levels share; frozen: the backbone keeps its
    # pre-trained statistics and the layers after it are those of the family's paper
    norm: Norm = "batch"
    # pyramid levels, input pixels per cell
    strides: Annotated[tuple[Stride, ...], Field(min_length=1, max_length=8)] | None = None
    # side of an anchor in strides
    anchor_scale: Annotated[float, Field(gt=0, le=1000)] | None = None
    backbone_weights: LocalFile | None = None  # a local file, or "torchvision" / "timm": fetch them
    pre_nms: int = Field(default=1000, ge=1, le=3840)  # candidates kept per level

    def without_files(self) -> Self:
        """See `DetectorSection.without_files`."""
        files = ("weights", "transfer", "backbone_weights")
        return self.model_copy(update=dict.fromkeys(files))

    def backbone_source(self) -> tuple[str | SlimResNetConfig, str] | None:
        """See `DetectorSection.backbone_source`."""
        source = self.backbone_weights
        return None if source is None else (self.backbone, source)

    def largest(self) -> tuple[int, int]:
        """See `DetectorSection.largest`."""
        widths, weights = [self.width, getattr(self, "head_width", None) or 0], 0
        if isinstance(self.backbone, SlimResNetConfig):
            stages = self.backbone.widths
            widths += [self.backbone.stem, *stages]
            blocks = zip(self.backbone.blocks, stages, strict=True)
            weights = sum(2 * 9 * count * width**2 for count, width in blocks)
        return max(widths), weights

    @field_validator("strides")
    @classmethod
    def _double(cls, strides: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if strides is None:
            return None
        doubles = all(coarse == 2 * fine for fine, coarse in pairwise(strides))
        if not strides or not doubles or strides[0] not in (4, 8, 16, 32) or strides[-1] > 128:
            raise ValueError(
                f"strides must start at 4, 8, 16 or 32 and double up to at most 128, "
                f"as in [8, 16, 32]; found {list(strides)}"
            )
        return strides

    @model_validator(mode="after")
    def _fits_the_backbone(self) -> Self:
        name = self.backbone if isinstance(self.backbone, str) else self.backbone.type
        from_timm = name.startswith("timm/")
        if from_timm and self.norm == "group":
            raise ClashError(
                "group is not possible with a timm backbone; use batch or frozen",
                *("norm", "backbone"),
            )
        source, weights = self.backbone_weights, ("backbone_weights", "backbone")
        if source == "timm" and not from_timm:
            raise ClashError(f"timm has no weights for backbone {name!r}", *weights)
        if source == "torchvision" and (from_timm or name == "slim_resnet"):
            raise ClashError(f"torchvision has no weights for backbone {name!r}", *weights)
        return self


def choose_strides(input_size: tuple[int, int], finest: int, coarsest: int) -> tuple[int, ...]:
    """Return the levels whose map is at least 4 cells on its shorter side (the finest always)."""
    strides = [finest]
    while strides[-1] < coarsest and math.ceil(min(input_size) / (2 * strides[-1])) >= 4:
        strides.append(2 * strides[-1])
    return tuple(strides)


def choose_anchor_scale(input_size: tuple[int, int]) -> float:
    """Return an anchor's side in strides: 8 from 640 px on, 4 at 160 px and below."""
    return min(8.0, max(4.0, 8.0 * math.sqrt(min(input_size) / 640)))


def map_sizes(input_size: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return height and width in cells of each level."""
    height, width = input_size
    return [(math.ceil(height / stride), math.ceil(width / stride)) for stride in strides]


def cell_centres(sizes: Sequence[tuple[int, int]], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return (P, 2) centres and (P, 1) strides in pixels, level-major, row-major."""
    centres, steps = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        rows = (torch.arange(height) + 0.5) * stride
        columns = (torch.arange(width) + 0.5) * stride
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres.append(torch.stack((x.flatten(), y.flatten()), dim=1))
        steps.append(torch.full((height * width, 1), float(stride)))
    return torch.cat(centres), torch.cat(steps)


@dataclass(frozen=True)
class Trunk:
    """Backbone and pyramid, to which a family adds its head.

    Attributes:
        strides: input pixels per cell, one per level, finest first.
        map_sizes: height and width in cells, one per level.
        anchor_scale: side of an anchor in strides.
        backbone: images to stages.
        neck: stages to the pyramid's maps.
    """

    strides: tuple[int, ...]
    map_sizes: list[tuple[int, int]]
    anchor_scale: float
    backbone: Backbone
    neck: Neck


def build_trunk(
    settings: DetectorSettings,
    input_size: tuple[int, int],
    *,
    finest: int,
    coarsest: int,
    extra: Extra,
) -> Trunk:
    """Build backbone and pyramid with random weights for inputs of (height, width) pixels.

    Args:
        settings: the family's settings.
        input_size: height and width.
        finest: the first stride, where the settings name none.
        coarsest: the last stride at most, where the settings name none.
        extra: how the levels beyond stride 32 are made from the pyramid's coarsest.

    Raises:
        RecipeError: a side is not a positive multiple of 32.
    """
    check_input_size(input_size)
    strides = settings.strides or choose_strides(input_size, finest, coarsest)
    check_anchors(settings.anchor_scale, strides, input_size)
    stages = [stride for stride in strides if stride <= COARSEST_STAGE]
    backbone = build_backbone(settings.backbone, stages, settings.norm)
    count = len(strides) - len(stages)
    return Trunk(
        strides,
        map_sizes(input_size, strides),
        settings.anchor_scale or choose_anchor_scale(input_size),
        backbone,
        Neck(backbone.channels, settings.width, count, extra, settings.norm),
    )


def check_anchors(scale: float | None, strides: Sequence[int], input_size: tuple[int, int]) -> None:
    """Refuse anchors that no object in the input has the size of.

    Raises:
        RecipeError: the smallest are larger than the input, or the largest smaller than a pixel.
    """
    if scale is None:
        return
    smallest, largest = scale * strides[0], scale * strides[-1]
    if smallest > max(input_size) or largest < 1:
        raise RecipeError(
            f"anchor_scale {scale:g}: anchors of {smallest:g} to {largest:g} px for an input of "
            f"{input_size[0]} x {input_size[1]} px; most detectors have 4 to 8"
        )


def check_input_size(input_size: tuple[int, int]) -> None:
    """Refuse an input size that the pyramid cannot divide.

    Raises:
        RecipeError: a side is not a positive multiple of 32.
    """
    if any(side < 32 or side % 32 for side in input_size):
        raise RecipeError(
            f"input size {input_size[0]}x{input_size[1]} (height x width): each side must be a "
            "multiple of 32, at least 32"
        )


def check_maps(features: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> None:
    """Refuse pictures of another size than the detector was built for.

    Raises:
        ValueError: the maps have other sizes.
    """
    found = [tuple(feature.shape[-2:]) for feature in features]
    if found != list(sizes):
        raise ValueError(
            f"the detector was built for maps of {list(sizes)} cells and got {found}: "
            "pictures must have the input size given to build()"
        )
