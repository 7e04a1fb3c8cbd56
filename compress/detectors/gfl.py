"""GFL (Li et al. 2020, "Generalized Focal Loss"): a box is a distribution per edge."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.batch import Targets, boxes_per_image
from compress.detector import Candidates, Dense
from compress.detectors.parts.dense import (
    Raw,
    TowerDetector,
    TowerHead,
    TowerSettings,
)
from compress.detectors.parts.gfl_losses import distances_to_boxes, expected_distances, gfl_losses
from compress.detectors.parts.selection import dense_candidates
from compress.detectors.parts.settings import cell_centres, check_maps
from compress.detectors.parts.towers import flatten_cells
from compress.parts.atss import atss_match

PRIOR_LOGIT = -math.log(99)  # every class starts at a score of 0.01


class GflConfig(TowerSettings):
    """Settings of a GFL; each cell has one square anchor of anchor_scale strides."""

    type: Literal["gfl"]
    reg_max: int = Field(default=16, ge=2, le=64)  # the farthest edge, in strides

    def build(self, num_classes: int, input_size: tuple[int, int]) -> "Gfl":
        """Build a detector with random weights for inputs of (height, width) pixels."""
        return Gfl(self, num_classes, input_size)


class GflHead(TowerHead):
    """Two towers, a class layer, and a box layer with one learnt scale per level."""

    def __init__(self, config: GflConfig, num_classes: int, levels: int) -> None:
        super().__init__(config, levels, config.head_norm)
        self.class_logits = nn.Conv2d(self.out_channels, num_classes, 3, padding=1)
        self.box_logits = nn.Conv2d(self.out_channels, 4 * (config.reg_max + 1), 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        for layer in (self.class_logits, self.box_logits):
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(self.class_logits.bias, PRIOR_LOGIT)  # type: ignore[arg-type]
        nn.init.zeros_(self.box_logits.bias)  # type: ignore[arg-type]

    def predict(self, in_class: list[Tensor], in_box: list[Tensor]) -> Raw:
        """Return `cls_logits` (B, P, K) and `dfl_logits` (B, P, 4 * bins), float32."""
        class_maps = [self.class_logits(feature) for feature in in_class]
        box_maps = [
            self.box_logits(feature) * scale
            for feature, scale in zip(in_box, self.scales, strict=True)
        ]
        return {
            "cls_logits": flatten_cells(class_maps, self.class_logits.out_channels).float(),
            "dfl_logits": flatten_cells(box_maps, self.box_logits.out_channels).float(),
        }


class Gfl(TowerDetector):
    """Backbone, pyramid and a head on one location per cell, its centre."""

    head: GflHead
    centres: Tensor
    strides: Tensor

    def __init__(self, config: GflConfig, num_classes: int, input_size: tuple[int, int]) -> None:
        super().__init__(config, num_classes, input_size, GflHead)
        strides, scale = self.spec.strides, self.anchor_scale
        self.level_counts = [height * width for height, width in self.map_sizes]
        centres, steps = cell_centres(self.map_sizes, strides)
        half = steps * scale / 2
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("strides", steps, persistent=False)
        anchors = torch.cat((centres - half, centres + half), dim=1)
        self.register_buffer("anchors", anchors, persistent=False)
        self.spec = replace(
            self.spec,
            locations=(
                f"centre of each cell of strides {list(strides)}, "
                f"input {input_size[0]}x{input_size[1]}, distances to the edges in strides"
            ),
            provides=self.spec.provides | {"dfl"},
            dfl_bins=config.reg_max + 1,
        )

    def dense(self, raw: Raw) -> Dense:
        """Return the distributions of the edges, their expectations and the boxes."""
        distances = expected_distances(raw["dfl_logits"])
        boxes = distances_to_boxes(distances, self.centres, self.strides)
        return Dense(
            raw["cls_logits"],
            distances,
            boxes,
            self._assign,
            raw["dfl_logits"],
            match=lambda targets: self._match(boxes_per_image(targets)),
            level_counts=tuple(self.level_counts),
        )

    def _match(self, boxes: Sequence[Tensor]) -> Tensor:
        return atss_match(self.centres, self.anchors, self.level_counts, boxes)

    def _assign(self, boxes: Sequence[Tensor]) -> Tensor:
        return self._match(boxes) >= 0

    def losses(self, raw: Raw, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Return the three losses of GFL; see `OneStage`."""
        matched = self._match(boxes_per_image(targets))
        return gfl_losses(
            raw["cls_logits"], raw["dfl_logits"], matched, targets, self.centres, self.strides
        )

    def class_rows(self) -> frozenset[str]:
        """See `Detector.class_rows`."""
        return frozenset({"head.class_logits.weight", "head.class_logits.bias"})

    def candidates(self, images: Tensor) -> Candidates:
        """Return the best (location, class) pairs; see `Detector.candidates`."""
        features = self.maps(images)
        check_maps(features, self.map_sizes)
        raw = self.head(features)
        return dense_candidates(
            raw["cls_logits"].sigmoid(),
            expected_distances(raw["dfl_logits"]),
            self.level_counts,
            self.pre_nms,
            self._decode,
            self.input_size,
        )

    def _decode(self, distances: Tensor, locations: Tensor) -> Tensor:
        return distances_to_boxes(distances, self.centres[locations], self.strides[locations])
