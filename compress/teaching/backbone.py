"""A pre-trained backbone without a head as a teacher of features."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.batch import Batch
from compress.detector import FEATURES, Candidates, Detector, DetectorSpec, Outputs, Rois, Wanted
from compress.parts.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    STAGE_STRIDES,
    Backbone,
    build_backbone,
    require_timm_model,
)
from compress.teaching.config import BackboneTeacher
from export.errors import RecipeError


class BackboneSource(Detector):
    """A backbone whose maps are resampled to a student's levels; it finds no objects.

    Each level takes the stage of the nearest stride: all take the last map of a ViT.
    """

    backbone: Backbone

    def __init__(
        self,
        backbone: Backbone,
        student: DetectorSpec,
        input_size: tuple[int, int],
        *,
        seen: tuple[int, int],
    ) -> None:
        """Keep the backbone for pictures of `input_size`, which it sees at the size `seen`."""
        super().__init__()
        self.backbone, self.neck = backbone, nn.Identity()
        self._seen = seen
        self._stages = [_nearest(stride, backbone.strides) for stride in student.strides]
        height, width = input_size
        self._sizes = [(-(-height // one), -(-width // one)) for one in student.strides]
        self.spec = DetectorSpec(
            family="backbone",
            num_classes=student.num_classes,
            channels=tuple(backbone.channels[stage] for stage in self._stages),
            strides=student.strides,
            backbone_channels=(),
            backbone_strides=(),
            provides=frozenset({"features"}),
            classes=student.classes,
        )

    def levels(self) -> list[tuple[int, tuple[int, int]]]:
        """Return the channels and the height and width of the map of each level."""
        return list(zip(self.spec.channels, self._sizes, strict=True))

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return a map of each of the student's levels, of (B, 3, H, W) RGB in 0..1."""
        stages = self.backbone(resampled(images, self._seen))
        return tuple(
            resampled(stages[stage], size)
            for stage, size in zip(self._stages, self._sizes, strict=True)
        )

    def forward(
        self,
        batch: Batch,
        wanted: Wanted = FEATURES,
        rois: Rois | None = None,
    ) -> Outputs:
        """Return the maps, the only outputs there are.

        Raises:
            ValueError: something else is wanted.
        """
        if wanted - self.spec.provides or rois is not None:
            raise ValueError(f"a backbone gives features alone; {sorted(wanted)} were wanted")
        return Outputs(self.maps(batch.images))

    def candidates(self, images: Tensor) -> Candidates:  # noqa: ARG002 - it has no head
        """Raise: a backbone finds no objects.

        Raises:
            ValueError: always.
        """
        raise ValueError("a backbone has no head: it finds no objects and has no AP")


def build_backbone_teacher(
    config: BackboneTeacher, student: DetectorSpec, input_size: tuple[int, int]
) -> BackboneSource:
    """Build the teacher with random weights for a student's levels and pictures.

    Args:
        config: settings.
        student: strides and classes of the student.
        input_size: height and width of the pictures.

    Raises:
        RecipeError: timm has no such model, or one that gives no maps.
        MissingDependencyError: timm is asked for and not installed.
    """
    name = config.backbone
    assert isinstance(name, str)
    if name.startswith("timm/"):
        backbone, seen = _of_timm(name.removeprefix("timm/"), input_size)
    else:
        backbone, seen = build_backbone(name, STAGE_STRIDES, "batch"), input_size
    return BackboneSource(backbone, student, input_size, seen=seen)


@torch.inference_mode()
def check_size(network: BackboneSource, config: BackboneTeacher, size: tuple[int, int]) -> None:
    """Pass a grey picture of (height, width) pixels, and refuse a backbone that cannot take it.

    Raises:
        RecipeError: the model fails on pictures of this size, or gives other maps.
    """
    training = network.training
    try:
        found = network.eval().maps(torch.full((1, 3, *size), 0.5))
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecipeError(
            f"backbone: {config.backbone} takes no pictures of {size[0]} x {size[1]} px "
            f"({reason}); choose another data.image_size, or another backbone"
        ) from error
    finally:
        network.train(training)
    expected = [(channels, *cells) for channels, cells in network.levels()]
    shapes = [tuple(level.shape[1:]) for level in found]
    if shapes != expected:
        raise RecipeError(
            f"backbone: {config.backbone} gives maps of {shapes} for pictures of {size[0]} x "
            f"{size[1]} px, where {expected} are needed; choose another backbone"
        )


def resampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, C, H, W) at another height and width; what shrinks is averaged."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    scaled = functional.interpolate(
        maps.float(), size, mode="bilinear", align_corners=False, antialias=True
    )
    return scaled.to(maps.dtype)


class _LastTokens(nn.Module):
    """The patch tokens after the last block of a ViT of timm and its norm, as one map."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return one map (B, C, H / patch, W / patch)."""
        model: Any = self.model
        (last,) = model.forward_intermediates(
            images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return (last,)


def _of_timm(name: str, input_size: tuple[int, int]) -> tuple[Backbone, tuple[int, int]]:
    """Return a model of timm and the size at which it sees pictures of `input_size`."""
    timm = require_timm_model(name)
    try:
        with torch.device("meta"):  # only to read its strides
            info = timm.create_model(name, features_only=True).feature_info
            offered, channels = list(info.reduction()), list(info.channels())
    except (RuntimeError, AttributeError, AssertionError, TypeError, ValueError) as error:
        raise RecipeError(
            f"backbone: timm/{name} gives no maps ({error}); choose a ViT, or another of timm's "
            "models that has features_only"
        ) from error
    if len(set(offered)) == 1 and len(offered) > 1:
        return _vit(timm, name, offered[0], channels[-1], input_size)
    strides = sorted(set(offered))
    indices = [len(offered) - 1 - offered[::-1].index(stride) for stride in strides]
    body = timm.create_model(name, features_only=True, out_indices=indices)
    settings = timm.get_pretrained_cfg(name)
    fixed = settings is not None and settings.fixed_input_size
    # a window or position table of one size takes no other pictures
    seen = tuple(settings.input_size[1:]) if fixed else input_size
    return _normalising(body, body.feature_info.channels(), strides, settings), seen


def _vit(
    timm: Any, name: str, patch: int, channels: int, input_size: tuple[int, int]
) -> tuple[Backbone, tuple[int, int]]:
    settings = timm.get_pretrained_cfg(name)
    try:
        model = timm.create_model(name, num_classes=0, dynamic_img_size=True)
        # whole patches, so that the map covers the picture and no more
        height, width = (max(1, round(side / patch)) * patch for side in input_size)
    except TypeError:  # of the few that take one size alone
        model = timm.create_model(name, num_classes=0)
        height, width = settings.input_size[1:]
    return _normalising(_LastTokens(model), [channels], [patch], settings), (height, width)


def _normalising(
    body: nn.Module, channels: Sequence[int], strides: Sequence[int], settings: Any
) -> Backbone:
    mean = IMAGENET_MEAN if settings is None else settings.mean
    std = IMAGENET_STD if settings is None else settings.std
    return Backbone(body, channels, strides, mean=mean, std=std)


def _nearest(stride: int, strides: Sequence[int]) -> int:
    """Return the index of the stride nearest in octaves; the finer of two."""
    return min(
        range(len(strides)),
        key=lambda index: max(stride / strides[index], strides[index] / stride),
    )
