"""GFL (Li et al. 2020, "Generalized Focal Loss"): a box is a distribution per edge."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from compress.batch import Batch, Targets, boxes_per_image
from compress.detector import Candidates, Dense, Detector, DetectorSpec, Knowledge, Outputs, Rois
from compress.detectors.parts.gfl_losses import distances_to_boxes, expected_distances, gfl_losses
from compress.detectors.parts.selection import dense_candidates
from compress.detectors.parts.settings import (
    DetectorSettings,
    build_trunk,
    check_input_size,
    check_maps,
    choose_anchor_scale,
    choose_strides,
    map_sizes,
)
from compress.detectors.parts.towers import Tower, finish_towers, flatten_cells, run_towers
from compress.parts.atss import atss_match
from compress.parts.backbones import Backbone
from compress.parts.neck import Neck
from compress.parts.norm import Norm

PRIOR_LOGIT = -math.log(99)  # every class starts at a score of 0.01


class GflConfig(DetectorSettings):
    """Settings of a GFL; each cell has one square anchor of anchor_scale strides."""

    type: Literal["gfl"]
    head_width: PositiveInt | None = None  # channels of the towers; None: as the pyramid
    head_depth: int = Field(default=4, ge=0, le=8)
    reg_max: int = Field(default=16, ge=2, le=64)  # the farthest edge, in strides

    def build(self, num_classes: int, input_size: tuple[int, int]) -> "Gfl":
        """Build one with random weights for inputs of (height, width) pixels."""
        check_input_size(input_size)
        return Gfl(self, num_classes, input_size)


class GflHead(nn.Module):
    """Two towers, a class layer, and a box layer with one learnt scale per level."""

    def __init__(self, config: GflConfig, num_classes: int, levels: int) -> None:
        super().__init__()
        width = config.head_width or config.width
        # as in the paper, the head has GroupNorm beside a frozen backbone
        norm: Norm = "batch" if config.norm == "batch" else "group"
        self.class_tower = Tower(config.width, width, config.head_depth, levels, norm)
        self.box_tower = Tower(config.width, width, config.head_depth, levels, norm)
        before = width if config.head_depth else config.width
        self.class_logits = nn.Conv2d(before, num_classes, 3, padding=1)
        self.box_logits = nn.Conv2d(before, 4 * (config.reg_max + 1), 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        for layer in (self.class_logits, self.box_logits):
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(self.class_logits.bias, PRIOR_LOGIT)  # type: ignore[arg-type]
        nn.init.zeros_(self.box_logits.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return class logits (B, P, K) and box logits (B, P, 4 * bins), float32."""
        return self.predict(self.class_tower(features), self.box_tower(features))

    def predict(
        self, in_class: Sequence[Tensor], in_box: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of what the towers put out."""
        class_maps = [self.class_logits(feature) for feature in in_class]
        box_maps = [
            self.box_logits(feature) * scale
            for feature, scale in zip(in_box, self.scales, strict=True)
        ]
        return (
            flatten_cells(class_maps, self.class_logits.out_channels).float(),
            flatten_cells(box_maps, self.box_logits.out_channels).float(),
        )


class Gfl(Detector):
    """Backbone, pyramid and a head on one location per cell, its centre."""

    centres: Tensor
    strides: Tensor
    anchors: Tensor

    def __init__(self, config: GflConfig, num_classes: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        strides = config.strides or choose_strides(input_size, finest=8, coarsest=128)
        scale = config.anchor_scale or choose_anchor_scale(input_size)
        self.input_size, self.pre_nms = input_size, config.pre_nms
        self.map_sizes = map_sizes(input_size, strides)
        self.level_counts = [height * width for height, width in self.map_sizes]
        self.backbone: Backbone
        self.neck: Neck
        self.backbone, self.neck = build_trunk(config, strides, "conv")
        self.head = GflHead(config, num_classes, len(strides))
        centres, steps = _cell_centres(self.map_sizes, strides)
        half = steps * scale / 2
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("strides", steps, persistent=False)
        anchors = torch.cat((centres - half, centres + half), dim=1)
        self.register_buffer("anchors", anchors, persistent=False)
        self.spec = DetectorSpec(
            family="gfl",
            num_classes=num_classes,
            channels=(config.width,) * len(strides),
            strides=tuple(strides),
            backbone_channels=self.backbone.channels,
            backbone_strides=self.backbone.strides,
            provides=frozenset(
                {"features", "backbone", "anchors", "dense", "dfl", "towers", "task"}
            ),
            locations=(
                f"centre of each cell of strides {list(strides)}, "
                f"input {input_size[0]}x{input_size[1]}, distances to the edges in strides"
            ),
            dfl_bins=config.reg_max + 1,
            tower_depth=config.head_depth,
            tower_channels=config.head_width or config.width,
        )

    def forward(
        self,
        batch: Batch,
        wanted: frozenset[Knowledge] = frozenset({"features"}),
        rois: Rois | None = None,  # noqa: ARG002 - two-stage families alone take them
    ) -> Outputs:
        """Pass a batch; see `Detector.forward`."""
        stages = self.backbone(batch.images)
        features = self.neck(stages)
        check_maps(features, self.map_sizes)
        asked = bool(wanted & {"dense", "dfl"})
        learns = self.training or "task" in wanted
        dense, towers, losses = None, None, {}
        if asked or learns or "towers" in wanted:
            count = len(batch.images) if wanted & {"dense", "dfl", "towers"} else batch.labeled
            traced = run_towers(self.head, [feature[:count] for feature in features])
            class_logits, box_logits = self.head.predict(*traced.ends)
            if "towers" in wanted:
                towers = traced.as_towers(self._resume)
            with torch.autocast(batch.images.device.type, enabled=False):
                dense = self._dense(class_logits, box_logits) if asked else None
                if learns:
                    seen = slice(batch.labeled)
                    losses = self._losses(class_logits[seen], box_logits[seen], batch.targets[seen])
        return Outputs(
            features,
            stages,
            dense,
            task_losses=losses,
            anchors=torch.split(self.anchors, self.level_counts) if "anchors" in wanted else (),
            towers=towers,
        )

    def _resume(self, index: int, in_class: Sequence[Tensor], in_box: Sequence[Tensor]) -> Dense:
        class_logits, box_logits = self.head.predict(
            *finish_towers(self.head, index, in_class, in_box)
        )
        return self._dense(class_logits, box_logits)

    def _dense(self, class_logits: Tensor, box_logits: Tensor) -> Dense:
        distances = expected_distances(box_logits)
        boxes = distances_to_boxes(distances, self.centres, self.strides)
        return Dense(
            class_logits,
            distances,
            boxes,
            self._assign,
            box_logits,
            match=self._match,
            level_counts=tuple(self.level_counts),
        )

    def _match(self, boxes: Sequence[Tensor]) -> Tensor:
        return atss_match(self.centres, self.anchors, self.level_counts, boxes)

    def _assign(self, boxes: Sequence[Tensor]) -> Tensor:
        return self._match(boxes) >= 0

    def _losses(
        self, class_logits: Tensor, box_logits: Tensor, targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        matched = self._match(boxes_per_image(targets))
        return gfl_losses(class_logits, box_logits, matched, targets, self.centres, self.strides)

    def candidates(self, images: Tensor) -> Candidates:
        """Return the best (location, class) pairs; see `Detector.candidates`."""
        features = self.neck(self.backbone(images))
        check_maps(features, self.map_sizes)
        class_logits, box_logits = self.head(features)
        return dense_candidates(
            class_logits.sigmoid(),
            expected_distances(box_logits),
            self.level_counts,
            self.pre_nms,
            self._decode,
            self.input_size,
        )

    def _decode(self, distances: Tensor, locations: Tensor) -> Tensor:
        return distances_to_boxes(distances, self.centres[locations], self.strides[locations])


def _cell_centres(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return (P, 2) centres and (P, 1) strides in pixels, level-major, row-major."""
    centres, steps = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        rows = (torch.arange(height) + 0.5) * stride
        columns = (torch.arange(width) + 0.5) * stride
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres.append(torch.stack((x.flatten(), y.flatten()), dim=1))
        steps.append(torch.full((height * width, 1), float(stride)))
    return torch.cat(centres), torch.cat(steps)
