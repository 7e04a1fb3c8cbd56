"""RetinaNet (Lin et al. 2017) on torchvision's head, anchors, box coder and losses."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection import retinanet as tv
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator

from compress.batch import Targets
from compress.detector import Candidates, Dense
from compress.detectors.parts.assignment import (
    anchor_dense,
    as_torchvision,
    decode_at,
    match_overlaps,
)
from compress.detectors.parts.dense import (
    Raw,
    TowerDetector,
    TowerHead,
    TowerSettings,
)
from compress.detectors.parts.selection import dense_candidates
from compress.detectors.parts.settings import check_maps
from compress.parts.processes import mean_of_batch

ASPECT_RATIOS = (0.5, 1.0, 2.0)
POSITIVE_IOU = 0.5
OCTAVES = tuple(2 ** (third / 3) for third in range(3))


class RetinaNetConfig(TowerSettings):
    """Settings of a RetinaNet; its smallest anchor has a side of anchor_scale / 2 strides."""

    type: Literal["retinanet"]

    def build(self, num_classes: int, input_size: tuple[int, int]) -> "RetinaNet":
        """Build a detector with random weights for inputs of (height, width) pixels."""
        return RetinaNet(self, num_classes, input_size)


class RetinaNetHead(TowerHead):
    """Two towers and torchvision's prediction layers and losses."""

    def __init__(self, config: RetinaNetConfig, num_classes: int, levels: int) -> None:
        # with a frozen backbone the head has no normalisation, as in the paper
        super().__init__(config, levels, None if config.norm == "frozen" else config.norm)
        per_cell = len(OCTAVES) * len(ASPECT_RATIOS)
        predictor = tv.RetinaNetHead(self.out_channels, per_cell, num_classes)
        predictor.classification_head.conv = nn.Identity()
        predictor.regression_head.conv = nn.Identity()
        self.predictor = predictor

    def predict(self, in_class: list[Tensor], in_box: list[Tensor]) -> Raw:
        """Return torchvision's `cls_logits` (B, P, K) and `bbox_regression` (B, P, 4)."""
        return {
            "cls_logits": self.predictor.classification_head(in_class).float(),
            "bbox_regression": self.predictor.regression_head(in_box).float(),
        }


class RetinaNet(TowerDetector):
    """Backbone, pyramid and a head on nine anchors per cell."""

    head: RetinaNetHead

    def __init__(
        self, config: RetinaNetConfig, num_classes: int, input_size: tuple[int, int]
    ) -> None:
        super().__init__(config, num_classes, input_size, RetinaNetHead)
        strides, scale = self.spec.strides, self.anchor_scale
        sizes = tuple(tuple(scale / 2 * s * octave for octave in OCTAVES) for s in strides)
        generator = AnchorGenerator(sizes, (ASPECT_RATIOS,) * len(sizes))
        anchors = generator.grid_anchors(self.map_sizes, [(s, s) for s in strides])
        self.level_counts = [len(level) for level in anchors]
        self.register_buffer("anchors", torch.cat(anchors), persistent=False)
        self.coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(POSITIVE_IOU, 0.4, allow_low_quality_matches=True)
        self.spec = replace(
            self.spec,
            locations=(
                f"9 anchors per cell of strides {list(strides)}, smallest side {scale / 2:g} "
                f"strides, input {input_size[0]}x{input_size[1]}, centre and log size deltas"
            ),
        )

    def dense(self, raw: Raw) -> Dense:
        """Return deltas and boxes at every anchor."""
        return anchor_dense(
            raw["cls_logits"],
            raw["bbox_regression"],
            anchors=self.anchors,
            coder=self.coder,
            matcher=self.matcher,
            positive_iou=POSITIVE_IOU,
            level_counts=self.level_counts,
        )

    def _decode(self, deltas: Tensor, locations: Tensor) -> Tensor:
        return decode_at(self.coder, self.anchors, deltas, locations)

    def losses(self, raw: Raw, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Return torchvision's losses; see `OneStage`."""
        if not targets:
            losses = {
                "classification": raw["cls_logits"].sum(),  # an empty sum: 0, attached to the graph
                "bbox_regression": raw["bbox_regression"].sum(),
            }
        else:
            matches = [match_overlaps(self.matcher, self.anchors, t.boxes) for t in targets]
            losses = self.head.predictor.compute_loss(
                as_torchvision(targets), raw, [self.anchors] * len(targets), matches
            )
        return {
            name: mean_of_batch(losses[key], len(targets))
            for name, key in (("classification", "classification"), ("box", "bbox_regression"))
        }

    def candidates(self, images: Tensor) -> Candidates:
        """Return the best (anchor, class) pairs; see `Detector.candidates`."""
        features = self.maps(images)
        check_maps(features, self.map_sizes)
        raw = self.head(features)
        return dense_candidates(
            raw["cls_logits"].float().sigmoid(),
            raw["bbox_regression"].float(),
            self.level_counts,
            self.pre_nms,
            self._decode,
            self.input_size,
        )
