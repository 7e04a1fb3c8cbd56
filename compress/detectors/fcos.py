"""FCOS (Tian et al. 2019, 2020) on torchvision's head, points, box coder and losses."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torchvision.models.detection import fcos as tv
from torchvision.models.detection.anchor_utils import AnchorGenerator

from compress.batch import Targets, boxes_per_image
from compress.detector import Candidates, Dense
from compress.detectors.parts.assignment import as_torchvision, joined_matches, positive_count
from compress.detectors.parts.dense import (
    Raw,
    TowerDetector,
    TowerHead,
    TowerSettings,
)
from compress.detectors.parts.selection import dense_candidates
from compress.detectors.parts.settings import check_maps
from compress.parts.processes import mean_of_batch

CENTRE_RADIUS = 1.5  # of centre sampling, in strides


class FcosConfig(TowerSettings):
    """Settings of an FCOS.

    A level is responsible for boxes whose longest distance from a point to an edge is between
    anchor_scale / 2 and anchor_scale strides (the paper's 4 and 8 at 800 px).
    """

    type: Literal["fcos"]

    def build(self, num_classes: int, input_size: tuple[int, int]) -> "Fcos":
        """Build a detector with random weights for inputs of (height, width) pixels."""
        return Fcos(self, num_classes, input_size)


class FcosHead(TowerHead):
    """Two towers and torchvision's prediction layers and losses."""

    def __init__(self, config: FcosConfig, num_classes: int, levels: int) -> None:
        super().__init__(config, levels, config.head_norm)
        self.predictor = tv.FCOSHead(self.out_channels, 1, num_classes, num_convs=0)

    def predict(self, in_class: list[Tensor], in_box: list[Tensor]) -> Raw:
        """Return torchvision's `cls_logits`, `bbox_regression` and `bbox_ctrness`."""
        boxes, centerness = self.predictor.regression_head(in_box)
        return {
            "cls_logits": self.predictor.classification_head(in_class).float(),
            "bbox_regression": boxes.float(),
            "bbox_ctrness": centerness.float(),
        }


class Fcos(TowerDetector):
    """Backbone, pyramid and a head on one point per cell."""

    head: FcosHead
    lower: Tensor
    upper: Tensor

    def __init__(self, config: FcosConfig, num_classes: int, input_size: tuple[int, int]) -> None:
        super().__init__(config, num_classes, input_size, FcosHead)
        strides, scale = self.spec.strides, self.anchor_scale
        generator = AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * len(strides))
        anchors = generator.grid_anchors(self.map_sizes, [(s, s) for s in strides])
        self.level_counts = [len(level) for level in anchors]
        self.register_buffer("anchors", torch.cat(anchors), persistent=False)
        sides = self.anchors[:, 2] - self.anchors[:, 0]
        lower, upper = sides * scale / 2, sides * scale
        lower[: self.level_counts[0]] = 0
        upper[-self.level_counts[-1] :] = float("inf")
        self.register_buffer("lower", lower, persistent=False)
        self.register_buffer("upper", upper, persistent=False)
        self.spec = replace(
            self.spec,
            locations=(
                f"top left point of each cell of strides {list(strides)}, "
                f"input {input_size[0]}x{input_size[1]}, distances to the edges in strides"
            ),
        )

    def dense(self, raw: Raw) -> Dense:
        """Return distances and boxes at every point."""
        deltas = raw["bbox_regression"]
        boxes = self.head.predictor.box_coder.decode(deltas, self.anchors)
        return Dense(
            raw["cls_logits"],
            deltas,
            boxes,
            self._assign,
            match=self._match_all,
            level_counts=tuple(self.level_counts),
        )

    def _match_all(self, targets: Sequence[Targets]) -> Tensor:
        boxes = boxes_per_image(targets)
        return joined_matches([self._match(image_boxes) for image_boxes in boxes], boxes)

    def _assign(self, boxes: Sequence[Tensor]) -> Tensor:
        return torch.stack([self._match(image_boxes) for image_boxes in boxes]) >= 0

    def _match(self, boxes: Tensor) -> Tensor:
        """Return per point (P,) the index of the smallest matching box of (n, 4), or -1."""
        if len(boxes) == 0:
            return torch.full((len(self.anchors),), -1, device=self.anchors.device)
        boxes = boxes.to(self.anchors)
        points = (self.anchors[:, :2] + self.anchors[:, 2:]) / 2
        sides = self.anchors[:, 2] - self.anchors[:, 0]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        offsets = (points[:, None] - centres[None]).abs().amax(dim=2)  # (P, n)
        edges = torch.cat(
            (points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]), dim=2
        )
        reach = edges.amax(dim=2)
        taken = (
            (offsets < CENTRE_RADIUS * sides[:, None])
            & (edges.amin(dim=2) > 0)
            & (reach > self.lower[:, None])
            & (reach < self.upper[:, None])
        )
        sizes = boxes[:, 2:] - boxes[:, :2]
        areas = sizes.prod(dim=1).expand_as(taken).masked_fill(~taken, float("inf"))
        smallest, index = areas.min(dim=1)
        return index.masked_fill(smallest.isinf(), -1)

    def losses(self, raw: Raw, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Return torchvision's losses; see `OneStage`."""
        matches = [self._match(boxes) for boxes in boxes_per_image(targets)]
        if targets:
            anchors = [self.anchors] * len(targets)
            found = self.head.predictor.compute_loss(as_torchvision(targets), raw, anchors, matches)
            losses = {
                "classification": found["classification"],
                "box": found["bbox_regression"],
                "centerness": found["bbox_ctrness"],
            }
        else:
            losses = {
                "classification": raw["cls_logits"].sum(),  # an empty sum: 0, attached to the graph
                "box": raw["bbox_regression"].sum(),
                "centerness": raw["bbox_ctrness"].sum(),
            }
        count = positive_count(matches, self.anchors)
        return {name: mean_of_batch(loss, count) for name, loss in losses.items()}

    def candidates(self, images: Tensor) -> Candidates:
        """Return the best (point, class) pairs; see `Detector.candidates`."""
        features = self.maps(images)
        check_maps(features, self.map_sizes)
        raw = self.head(features)
        scores = raw["cls_logits"].float().sigmoid() * raw["bbox_ctrness"].float().sigmoid()
        return dense_candidates(
            scores.sqrt(),
            raw["bbox_regression"].float(),
            self.level_counts,
            self.pre_nms,
            self._decode,
            self.input_size,
        )

    def _decode(self, deltas: Tensor, locations: Tensor) -> Tensor:
        boxes: Tensor = self.head.predictor.box_coder.decode(deltas, self.anchors[locations])
        return boxes
