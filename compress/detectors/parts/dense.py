"""Base classes of the one-stage families: predictions and losses at dense locations."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.batch import Batch, Targets
from compress.detector import (
    FEATURES,
    Dense,
    Detector,
    DetectorSpec,
    Outputs,
    Rois,
    Towers,
    Wanted,
)
from compress.detectors.parts.settings import DetectorSettings, build_trunk, check_maps
from compress.detectors.parts.towers import Tower, finish_towers, run_towers
from compress.parts.backbones import Backbone
from compress.parts.neck import Neck
from compress.parts.norm import Norm
from export.config import Channels

# What a head predicts: float32 tensors (B, P, ...) by the names that torchvision's losses use.
Raw = dict[str, Tensor]


class OneStage(Detector):
    """Base of the families whose head predicts at the P locations of a pyramid.

    Attributes:
        anchors: (P, 4) xyxy.
        level_counts: how many of the P locations each level has.
        map_sizes: height and width in cells, one per level.
    """

    anchors: Tensor
    level_counts: list[int]
    map_sizes: list[tuple[int, int]]

    @abstractmethod
    def predict(self, features: Sequence[Tensor], wanted: Wanted) -> tuple[Raw, Towers | None]:
        """Run the head on L maps; also return its towers, if it has any and they are wanted."""

    @abstractmethod
    def dense(self, raw: Raw) -> Dense:
        """Return the predictions as a loss takes them."""

    @abstractmethod
    def losses(self, raw: Raw, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Return the task losses of the B images of `raw`; B may be 0."""

    def forward(self, batch: Batch, wanted: Wanted = FEATURES, rois: Rois | None = None) -> Outputs:  # noqa: ARG002 - for two-stage families
        """Pass a batch; see `Detector.forward`.

        The head runs on the labelled images only, if nothing but the task losses needs it.
        """
        stages = tuple(self.backbone(batch.images))
        features = self.neck(stages)
        check_maps(features, self.map_sizes)
        learns = self.training or "task" in wanted
        asked = bool(wanted & {"dense", "dfl"})
        whole = asked or "towers" in wanted
        dense, towers, losses = None, None, {}
        if learns or whole:
            # torchvision's heads fail on an empty batch, so without labels all images are passed
            count = len(batch.images) if whole or not batch.labeled else batch.labeled
            raw, towers = self.predict([feature[:count] for feature in features], wanted)
            with torch.autocast(batch.images.device.type, enabled=False):
                dense = self.dense(raw) if asked else None
                if learns:
                    labeled = {name: value[: batch.labeled] for name, value in raw.items()}
                    losses = self.losses(labeled, batch.targets[: batch.labeled])
        anchors = torch.split(self.anchors, self.level_counts) if "anchors" in wanted else ()
        return Outputs(
            features,
            stages,
            dense,
            task_losses=losses,
            anchors=anchors,
            towers=towers if "towers" in wanted else None,
        )


class TowerSettings(DetectorSettings):
    """The base of the settings of families with a head of two towers."""

    head_width: Channels | None = None  # channels of the towers; None: as the pyramid
    head_depth: int = Field(default=4, ge=0, le=8)

    @property
    def head_norm(self) -> Norm:
        """GroupNorm in the head, as FCOS and GFL have it, also with a frozen backbone."""
        return "batch" if self.norm == "batch" else "group"


ConfigT = TypeVar("ConfigT", bound=TowerSettings)


class TowerHead(nn.Module):
    """Base of the heads with a tower for classes and one for boxes.

    Attributes:
        out_channels: channels of the towers' outputs.
    """

    def __init__(self, config: TowerSettings, levels: int, norm: Norm | None) -> None:
        super().__init__()
        width = config.head_width or config.width
        self.class_tower, self.box_tower = (
            Tower(config.width, width, config.head_depth, levels, norm) for _ in range(2)
        )
        self.out_channels = width if config.head_depth else config.width

    def forward(self, features: Sequence[Tensor]) -> Raw:
        """Return the predictions at all locations, float32."""
        return self.predict(self.class_tower(features), self.box_tower(features))

    @abstractmethod
    def predict(self, in_class: list[Tensor], in_box: list[Tensor]) -> Raw:
        """Return the predictions, float32, from the towers' outputs."""


class TowerDetector(OneStage):
    """Base of the families of a backbone, a pyramid of strides 8 to 128 and a head of two towers.

    A subclass defines the locations: `anchors`, `level_counts`, and `locations` of the spec.

    Args:
        config: the family's settings.
        num_classes: K.
        input_size: height and width in pixels.
        build_head: builds the head from settings, K and the number of levels.
    """

    backbone: Backbone
    neck: Neck
    head: TowerHead

    def __init__(
        self,
        config: ConfigT,
        num_classes: int,
        input_size: tuple[int, int],
        build_head: Callable[[ConfigT, int, int], TowerHead],
    ) -> None:
        super().__init__()
        trunk = build_trunk(config, input_size, finest=8, coarsest=128, extra="conv")
        self.input_size, self.pre_nms = input_size, config.pre_nms
        self.map_sizes, self.anchor_scale = trunk.map_sizes, trunk.anchor_scale
        self.backbone, self.neck = trunk.backbone, trunk.neck
        self.head = build_head(config, num_classes, len(trunk.strides))
        self.spec = DetectorSpec(
            family=config.type,
            num_classes=num_classes,
            channels=(config.width,) * len(trunk.strides),
            strides=trunk.strides,
            backbone_channels=trunk.backbone.channels,
            backbone_strides=trunk.backbone.strides,
            provides=frozenset({"features", "backbone", "anchors", "dense", "towers", "task"}),
            tower_depth=config.head_depth,
            tower_channels=config.head_width or config.width,
        )

    def predict(self, features: Sequence[Tensor], wanted: Wanted) -> tuple[Raw, Towers]:  # noqa: ARG002 - of the base class
        """Run the head on L maps; see `OneStage`."""
        traced = run_towers(self.head, features)
        return self.head.predict(*traced.ends), traced.as_towers(self._resume)

    def _resume(self, index: int, in_class: Sequence[Tensor], in_box: Sequence[Tensor]) -> Dense:
        return self.dense(self.head.predict(*finish_towers(self.head, index, in_class, in_box)))
