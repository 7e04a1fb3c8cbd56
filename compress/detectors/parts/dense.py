"""The forward pass that the one-stage families share: predictions and losses at dense locations."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor

from compress.batch import Batch, Targets
from compress.detector import Dense, DetectorSpec, Outputs, Towers, Wanted
from compress.detectors.parts.settings import DetectorSettings, Trunk, check_maps
from compress.detectors.parts.towers import Tower, TwoTowers, finish_towers, run_towers
from compress.parts.norm import Norm
from export.config import Channels

# What a head predicts: float32 tensors (B, P, ...) by the names that torchvision's losses use.
Raw = dict[str, Tensor]


class OneStage(Protocol):
    """What `dense_outputs` uses of a detector."""

    training: bool
    anchors: Tensor  # (P, 4) xyxy
    level_counts: list[int]  # how many of the P locations each level has
    map_sizes: list[tuple[int, int]]

    @property
    def backbone(self) -> Callable[[Tensor], Sequence[Tensor]]:
        """Images to stages."""

    @property
    def neck(self) -> Callable[[Sequence[Tensor]], tuple[Tensor, ...]]:
        """Stages to the pyramid's maps."""

    def dense(self, raw: Raw) -> Dense:
        """Return the predictions as a loss takes them."""

    def losses(self, raw: Raw, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Return the task losses of the B images of `raw`; B may be 0."""


class TowerHead(TwoTowers, Protocol):
    """A head of two towers and prediction layers."""

    def predict(self, in_class: list[Tensor], in_box: list[Tensor]) -> Raw:
        """Return the predictions from the towers' outputs."""


class Towered(OneStage, Protocol):
    """What `tower_outputs` uses of a detector."""

    @property
    def head(self) -> TowerHead:
        """The head."""


class TowerSettings(DetectorSettings):
    """The base of the settings of families with a head of two towers."""

    head_width: Channels | None = None  # channels of the towers; None: as the pyramid
    head_depth: int = Field(default=4, ge=0, le=8)


def build_towers(config: TowerSettings, levels: int, norm: Norm | None) -> tuple[Tower, Tower, int]:
    """Build the class and the box tower; also return the channels of their outputs."""
    width = config.head_width or config.width
    class_tower, box_tower = (
        Tower(config.width, width, config.head_depth, levels, norm) for _ in range(2)
    )
    return class_tower, box_tower, width if config.head_depth else config.width


def head_norm(config: TowerSettings) -> Norm:
    """Return GroupNorm in the head, as FCOS and GFL have it, also with a frozen backbone."""
    return "batch" if config.norm == "batch" else "group"


def tower_spec(
    config: TowerSettings, trunk: Trunk, num_classes: int, *, locations: str, dfl_bins: int = 0
) -> DetectorSpec:
    """Describe a detector of two towers; see `DetectorSpec`."""
    provides: Wanted = frozenset({"features", "backbone", "anchors", "dense", "towers", "task"})
    return DetectorSpec(
        family=config.type,
        num_classes=num_classes,
        channels=(config.width,) * len(trunk.strides),
        strides=trunk.strides,
        backbone_channels=trunk.backbone.channels,
        backbone_strides=trunk.backbone.strides,
        provides=provides | {"dfl"} if dfl_bins else provides,
        locations=locations,
        dfl_bins=dfl_bins,
        tower_depth=config.head_depth,
        tower_channels=config.head_width or config.width,
    )


def dense_outputs(
    detector: OneStage,
    batch: Batch,
    wanted: Wanted,
    predict: Callable[[Sequence[Tensor]], tuple[Raw, Towers | None]],
) -> Outputs:
    """Pass a batch through a one-stage detector; see `Detector.forward`.

    The head runs on the labelled images only, if nothing but the task losses needs it.

    Args:
        detector: the detector, in train or eval mode.
        batch: B images.
        wanted: what to return.
        predict: runs the head on L maps; also returns its towers, if it has any.
    """
    stages = tuple(detector.backbone(batch.images))
    features = detector.neck(stages)
    check_maps(features, detector.map_sizes)
    learns = detector.training or "task" in wanted
    asked = bool(wanted & {"dense", "dfl"})
    whole = asked or "towers" in wanted
    dense, towers, losses = None, None, {}
    if learns or whole:
        # torchvision's heads fail on an empty batch, so without labels all images are passed
        count = len(batch.images) if whole or not batch.labeled else batch.labeled
        raw, towers = predict([feature[:count] for feature in features])
        with torch.autocast(batch.images.device.type, enabled=False):
            dense = detector.dense(raw) if asked else None
            if learns:
                labeled = {name: value[: batch.labeled] for name, value in raw.items()}
                losses = detector.losses(labeled, batch.targets[: batch.labeled])
    anchors = torch.split(detector.anchors, detector.level_counts) if "anchors" in wanted else ()
    return Outputs(
        features,
        stages,
        dense,
        task_losses=losses,
        anchors=anchors,
        towers=towers if "towers" in wanted else None,
    )


def tower_outputs(detector: Towered, batch: Batch, wanted: Wanted) -> Outputs:
    """Pass a batch through a detector of two towers; see `Detector.forward`."""
    head = detector.head

    def resume(index: int, in_class: Sequence[Tensor], in_box: Sequence[Tensor]) -> Dense:
        return detector.dense(head.predict(*finish_towers(head, index, in_class, in_box)))

    def predict(features: Sequence[Tensor]) -> tuple[Raw, Towers]:
        traced = run_towers(head, features)
        return head.predict(*traced.ends), traced.as_towers(resume)

    return dense_outputs(detector, batch, wanted, predict)
