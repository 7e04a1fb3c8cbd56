"""SSD (Liu et al. 2016) and SSDLite (Sandler et al. 2018) on torchvision's heads and default boxes.

There is no pyramid: a level is a map of the backbone or is computed from the level before, so
levels differ in channels. Classes are a softmax with background; `Dense.class_logits` are the
log-odds of each class, whose sigmoid is the softmax probability, as losses on dense predictions
expect.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.models.detection import ssd as tv
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssdlite import SSDLiteHead
from typing_extensions import Self

from compress.batch import Targets
from compress.detector import Candidates, Dense, DetectorSpec, Wanted
from compress.detectors.parts.assignment import (
    anchor_dense,
    as_torchvision,
    decode_at,
    match_overlaps,
    positive_count,
)
from compress.detectors.parts.dense import OneStage, Raw
from compress.detectors.parts.selection import MAX_CANDIDATES, clip_to, gather_rows
from compress.detectors.parts.settings import (
    COARSEST_STAGE,
    DetectorSettings,
    check_input_size,
    check_maps,
    choose_strides,
    map_sizes,
)
from compress.parts.backbones import build_backbone
from compress.parts.norm import Norm, NormLayer, backbone_norm
from compress.parts.processes import mean_of_batch
from export.config import ClashError

ASPECT_RATIOS = (2, 3)
MATCH_IOU = 0.5
NEGATIVES_PER_POSITIVE = 3.0


class SsdConfig(DetectorSettings):
    """Settings of an SSD; `width` is the channels of the levels beyond the backbone's."""

    type: Literal["ssd"]
    lite: bool = False  # depthwise separable heads and extra levels
    min_scale: float = Field(default=0.15, gt=0, lt=1)  # finest default boxes, of the input's side
    max_scale: float = Field(default=0.9, gt=0, le=1)  # coarsest

    @model_validator(mode="after")
    def _own_scales(self) -> Self:
        if self.anchor_scale is not None:
            raise ClashError(
                "an SSD's boxes are set by min_scale and max_scale; drop anchor_scale",
                "anchor_scale",
            )
        if self.min_scale >= self.max_scale:
            raise ClashError(
                f"min_scale {self.min_scale:g} is not below max_scale {self.max_scale:g}",
                *("min_scale", "max_scale"),
            )
        return self

    def build(self, num_classes: int, input_size: tuple[int, int]) -> "Ssd":
        """Build a detector with random weights for inputs of (height, width) pixels."""
        return Ssd(self, num_classes, input_size)


class ExtraMaps(nn.Module):
    """The backbone's maps, and `count` more of half the size each."""

    def __init__(self, before: int, width: int, count: int, norm: Norm, *, lite: bool) -> None:
        super().__init__()
        layer = backbone_norm("group" if norm == "frozen" else norm)
        self.extra = nn.ModuleList(
            _halve(before if index == 0 else width, width, layer, lite=lite)
            for index in range(count)
        )

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return L maps, finest first."""
        maps = list(stages)
        for block in self.extra:
            maps.append(block(maps[-1]))
        return tuple(maps)


def _halve(before: int, width: int, norm: NormLayer, *, lite: bool) -> nn.Sequential:
    """Return a 1x1 convolution to half the width and a 3x3 one of stride 2."""
    inner = max(width // 2, 1)
    layers: list[nn.Module] = [nn.Conv2d(before, inner, 1, bias=False), norm(inner), nn.ReLU()]
    if lite:
        depthwise = nn.Conv2d(inner, inner, 3, stride=2, padding=1, groups=inner, bias=False)
        layers += [depthwise, norm(inner), nn.ReLU(), nn.Conv2d(inner, width, 1, bias=False)]
    else:
        layers.append(nn.Conv2d(inner, width, 3, stride=2, padding=1, bias=False))
    return nn.Sequential(*layers, norm(width), nn.ReLU())


class Ssd(OneStage):
    """Backbone, extra maps and one prediction layer per map."""

    def __init__(self, config: SsdConfig, num_classes: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        check_input_size(input_size)
        finest = 16 if config.lite else 8
        strides = config.strides or choose_strides(input_size, finest=finest, coarsest=128)
        self.input_size, self.pre_nms = input_size, config.pre_nms
        self.map_sizes = map_sizes(input_size, strides)
        stages = [stride for stride in strides if stride <= COARSEST_STAGE]
        self.backbone = build_backbone(config.backbone, stages, config.norm)
        extra = len(strides) - len(stages)
        before, width = self.backbone.channels[-1], config.width
        self.neck = ExtraMaps(before, width, extra, config.norm, lite=config.lite)
        channels = [*self.backbone.channels, *[width] * extra]
        generator = DefaultBoxGenerator(
            [list(ASPECT_RATIOS)] * len(strides),
            min_ratio=config.min_scale,
            max_ratio=config.max_scale,
            steps=list(strides),
        )
        per_cell = generator.num_anchors_per_location()
        self.head: nn.Module
        if config.lite:
            norm = backbone_norm("group" if config.norm == "frozen" else config.norm)
            self.head = SSDLiteHead(channels, per_cell, num_classes + 1, norm)
        else:
            self.head = tv.SSDHead(channels, per_cell, num_classes + 1)
        with torch.device("cpu"):  # the generator mixes devices where another is the default
            blank = [torch.zeros(1, 1, *size) for size in self.map_sizes]
            picture = ImageList(torch.zeros(1, 3, 1, 1).expand(1, 3, *input_size), [input_size])
            (anchors,) = generator(picture, blank)
        anchors = anchors.to(torch.get_default_device())
        self.level_counts = [
            height * width * count
            for (height, width), count in zip(self.map_sizes, per_cell, strict=True)
        ]
        self.register_buffer("anchors", anchors, persistent=False)
        self.box_coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
        self.matcher = SSDMatcher(MATCH_IOU)
        self.neg_to_pos_ratio = NEGATIVES_PER_POSITIVE  # read by torchvision's compute_loss
        self.spec = DetectorSpec(
            family="ssd",
            num_classes=num_classes,
            channels=tuple(channels),
            strides=strides,
            backbone_channels=self.backbone.channels,
            backbone_strides=self.backbone.strides,
            provides=frozenset({"features", "backbone", "anchors", "dense", "task"}),
            locations=(
                f"{per_cell[0]} default boxes per cell of strides {list(strides)}, sides "
                f"{config.min_scale:g} to {config.max_scale:g} of the input "
                f"{input_size[0]}x{input_size[1]}, centre and log size deltas"
            ),
        )

    def predict(self, features: Sequence[Tensor], wanted: Wanted) -> tuple[Raw, None]:  # noqa: ARG002 - of the base class
        """Run the head on L maps; see `OneStage`."""
        raw = self.head(list(features))
        return {name: value.float() for name, value in raw.items()}, None

    def dense(self, raw: Raw) -> Dense:
        """Return log-odds, deltas and boxes at every default box."""
        odds = log_odds(raw["cls_logits"])
        found = anchor_dense(
            odds[..., 1:],
            raw["bbox_regression"],
            anchors=self.anchors,
            coder=self.box_coder,
            matcher=self.matcher,
            positive_iou=MATCH_IOU,
            level_counts=self.level_counts,
        )
        return replace(found, background_logits=odds[..., 0])

    def losses(self, raw: Raw, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Return torchvision's losses; see `OneStage`."""
        matches = [match_overlaps(self.matcher, self.anchors, t.boxes) for t in targets]
        if targets:
            anchors = [self.anchors] * len(targets)
            found = tv.SSD.compute_loss(
                self, as_torchvision(targets, offset=1), raw, anchors, matches
            )
            losses = {"classification": found["classification"], "box": found["bbox_regression"]}
        else:
            losses = {
                "classification": raw["cls_logits"].sum(),  # an empty sum: 0, attached to the graph
                "box": raw["bbox_regression"].sum(),
            }
        count = positive_count(matches, self.anchors)
        return {name: mean_of_batch(loss, count) for name, loss in losses.items()}

    def candidates(self, images: Tensor) -> Candidates:
        """Return the best boxes of each class, then the best of all; see `Detector.candidates`.

        As in torchvision, each class keeps its own `pre_nms` best, so that a frequent class does
        not displace a rare one.
        """
        features = self.maps(images)
        check_maps(features, self.map_sizes)
        raw = self.head(list(features))
        scores = raw["cls_logits"].float().softmax(dim=-1)[..., 1:].transpose(1, 2)  # (B, K, P)
        classes, places = scores.shape[1:]
        top, index = scores.topk(min(self.pre_nms, places), dim=2)
        order = torch.arange(classes, dtype=torch.int32, device=images.device)
        labels = order.view(1, -1, 1).expand_as(index).flatten(1)
        scores, pick = top.flatten(1).topk(min(MAX_CANDIDATES, top[0].numel()), dim=1)
        locations = index.flatten(1).gather(1, pick)
        deltas = gather_rows(raw["bbox_regression"].float(), locations)
        boxes = decode_at(self.box_coder, self.anchors, deltas, locations)
        return Candidates(clip_to(boxes, self.input_size), scores, labels.gather(1, pick))


def log_odds(logits: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of each softmax probability p of (..., C) logits."""
    log_p = logits.log_softmax(dim=-1).clamp(max=-1e-6)
    # log(1 - p) without cancellation, whichever of p and 1 - p is small
    small = torch.log1p(-log_p.clamp(max=-0.6931).exp())
    large = torch.log(-torch.expm1(log_p.clamp(min=-0.6932)))
    return log_p - torch.where(log_p < -0.6931, small, large)
