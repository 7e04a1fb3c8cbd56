"""DeFeat: separate terms for objects and background (Guo et al., CVPR 2021, Eq. 5 to 8).

Departs from the released code in four places: labels of proposals come from the sampler that drew
them, background is label K instead of the largest label in the batch, object and background have
separate temperatures, and the mask's size is multiplied by the teacher's channels.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.batch import Batch, boxes_per_image
from compress.detector import DetectorSpec, Knowledge, Outputs, Rois
from compress.losses.parts.levels import (
    LevelPairs,
    check_classes,
    check_levels,
    listed,
    pair_levels,
    pair_strides,
)
from compress.losses.parts.loss import DistillationLoss, check_weights, weigh
from compress.losses.parts.masked_error import masked_error, squared_error
from compress.losses.parts.masks import level_masks, nearest, union_mask
from compress.losses.parts.responses import divergence, mean_over
from compress.losses.parts.rows import RoiSection, roi_weight
from export.config import NonNegativeFloat, PositiveInt, Temperature

USUAL_STAGES = (8, 16, 32)  # C3, C4, C5
AUTOMATIC_ROI_WEIGHT = 2.0


class DeFeatConfig(RoiSection):
    """Weights of the neck, backbone and RoI terms; a part whose weights are 0 is not computed."""

    type: Literal["defeat"]
    object_weight: NonNegativeFloat = 3.0  # alpha_obj
    background_weight: NonNegativeFloat = 12.0  # alpha_bg
    adapter: Literal["conv", "none"] = "conv"  # none: only for equal channels
    backbone_object_weight: NonNegativeFloat = 0.0
    backbone_background_weight: NonNegativeFloat = 0.0
    backbone_stages: tuple[PositiveInt, ...] | None = None  # strides; default 8, 16, 32 if there
    roi_object_weight: NonNegativeFloat | None = None  # beta_obj; default 2 if both have RoIs
    roi_background_weight: NonNegativeFloat | None = None  # beta_bg; default as beta_obj
    temperature_object: Temperature = 1.0
    temperature_background: Temperature = 1.0

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return the knowledge needed: the neck's maps, and others whose weight is not 0."""
        needs: set[Knowledge] = {"features"}
        if self.backbone_object_weight or self.backbone_background_weight:
            needs.add("backbone")
        if any(self.roi_weights(student, teacher)):
            needs.add("rois")
        return frozenset(needs)

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = check_levels(student, teacher)
        if problems:
            return problems
        pairs = pair_levels(student, teacher)
        channels = pairs.channels(student.channels, teacher.channels)
        if self.adapter == "none" and any(own != other for own, other in channels):
            problems.append(
                "adapter: none needs equal channels, but the levels have (student, teacher) "
                f"{sorted(set(channels))}; use adapter: conv"
            )
        needs = self.needs(student, teacher)
        if "backbone" in needs:
            problems += self._check_stages(student, teacher)
        neck = self.object_weight or self.background_weight
        problems += check_weights(neck, needs != {"features"})
        return problems + (check_classes(student, teacher) if "rois" in needs else [])

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "DeFeat":
        """Return the loss for this pair."""
        return DeFeat(self, student, teacher)

    def roi_weights(self, student: DetectorSpec, teacher: DetectorSpec) -> tuple[float, float]:
        """Return the weights for object and background proposals, the automatic ones resolved."""
        return (
            roi_weight(self.roi_object_weight, AUTOMATIC_ROI_WEIGHT, student, teacher),
            roi_weight(self.roi_background_weight, AUTOMATIC_ROI_WEIGHT, student, teacher),
        )

    def stage_pairs(self, student: DetectorSpec, teacher: DetectorSpec) -> LevelPairs:
        """Pair the backbone stages in use."""
        chosen = USUAL_STAGES if self.backbone_stages is None else self.backbone_stages
        pairs = pair_strides(student.backbone_strides, teacher.backbone_strides)
        kept = [index for index, stride in enumerate(pairs.strides) if stride in chosen]
        return LevelPairs(
            strides=tuple(pairs.strides[index] for index in kept),
            student=tuple(pairs.student[index] for index in kept),
            teacher=tuple(pairs.teacher[index] for index in kept),
        )

    def _check_stages(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        found = set(self.stage_pairs(student, teacher).strides)
        missing = sorted(set(self.backbone_stages or ()) - found)
        if found and not missing:
            return []
        return [
            f"backbone stages of stride {listed(missing or USUAL_STAGES)} are wanted; the student "
            f"has {listed(student.backbone_strides)}, the teacher "
            f"{listed(teacher.backbone_strides)}; set backbone_stages to strides that both have"
        ]


class DeFeat(DistillationLoss[DeFeatConfig]):
    """Neck, backbone and RoI classification terms, each split into objects and background."""

    def __init__(self, config: DeFeatConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.num_classes = student.num_classes
        self.roi_weights = config.roi_weights(student, teacher)
        self.levels = pair_levels(student, teacher)
        self.stages = config.stage_pairs(student, teacher)
        self.neck_adapters: nn.ModuleList | None = None
        if config.object_weight or config.background_weight:
            self.neck_adapters = nn.ModuleList(
                nn.Identity() if config.adapter == "none" else tiny_conv(own, other)
                for own, other in self.levels.channels(student.channels, teacher.channels)
            )
        self.backbone_adapters: nn.ModuleList | None = None
        if "backbone" in self.needs:
            self.backbone_adapters = nn.ModuleList(
                tiny_conv(own, other)
                for own, other in self.stages.channels(
                    student.backbone_channels, teacher.backbone_channels
                )
            )

    def compared(self, rois: Rois) -> Tensor | None:
        """Return the side with a weight, if only one has; see `DistillationLoss.compared`."""
        is_object = rois.labels < self.num_classes
        on, off = self.roi_weights
        return None if on and off else is_object if on else ~is_object

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `neck_*`, `backbone_*` and `roi_*` for `object` and `background`.

        A picture without boxes, unlabelled ones included, is all background.
        """
        terms: dict[str, Tensor] = {}
        boxes = boxes_per_image(batch.targets)
        neck = self.levels.select(student.features, teacher.features)
        if self.neck_adapters is not None:
            adapted = [
                (adapter(own), other)
                for adapter, (own, other) in zip(self.neck_adapters, neck, strict=True)
            ]
            sizes = [(other.shape[-2], other.shape[-1]) for _, other in neck]
            masks = level_masks(boxes, self.levels.strides, sizes)
            on, off = decoupled_error(adapted, masks)
            terms |= weigh(
                {
                    "neck_object": (self.config.object_weight, on),
                    "neck_background": (self.config.background_weight, off),
                }
            )
        if self.backbone_adapters is not None:
            stages = self.stages.select(student.backbone, teacher.backbone)
            adapted = [
                (functional.relu(adapter(own)), other)
                for adapter, (own, other) in zip(self.backbone_adapters, stages, strict=True)
            ]
            finest = (neck[0][1].shape[-2], neck[0][1].shape[-1])
            mask = union_mask(boxes, self.levels.strides[0], finest)
            on, off = decoupled_error(adapted, [nearest(mask, other) for _, other in adapted])
            terms |= weigh(
                {
                    "backbone_object": (self.config.backbone_object_weight, on),
                    "backbone_background": (self.config.backbone_background_weight, off),
                }
            )
        if "rois" in self.needs and student.rois is not None and teacher.rois is not None:
            terms |= self._roi_terms(student.rois, teacher.rois)
        return terms

    def _roi_terms(self, student: Rois, teacher: Rois) -> dict[str, Tensor]:
        # the student's labels: a teacher that knows more classes may number them differently
        is_object = student.labels < self.num_classes  # (R,)
        terms = {}
        for name, weight, temperature, rows in (
            ("roi_object", self.roi_weights[0], self.config.temperature_object, is_object),
            (
                "roi_background",
                self.roi_weights[1],
                self.config.temperature_background,
                ~is_object,
            ),
        ):
            apart = divergence(student.class_logits, teacher.class_logits, temperature)  # (R,)
            terms[name] = (weight, mean_over(apart, rows))
        return weigh(terms)


def tiny_conv(student_channels: int, teacher_channels: int) -> nn.Conv2d:
    """Return a 3x3 convolution whose weights start below 2e-4, so that the loss starts small."""
    conv = nn.Conv2d(student_channels, teacher_channels, kernel_size=3, padding=1)
    with torch.no_grad():
        conv.weight.copy_(torch.fmod(torch.randn_like(conv.weight), 2) * 1e-4)
    return conv


def decoupled_error(
    pairs: list[tuple[Tensor, Tensor]], masks: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return half the mean squared error inside and outside the masks, each a mean over maps.

    Args:
        pairs: L adapted student and teacher maps (B, C_l, H_l, W_l).
        masks: L bool masks (B, H_l, W_l).

    Returns:
        Two scalars. A map with no cell on one side adds 0 there and is still counted.
    """
    on: list[Tensor] = []
    off: list[Tensor] = []
    for (student, teacher), mask in zip(pairs, masks, strict=True):
        error = squared_error(student, teacher)
        on.append(masked_error(error, mask, teacher.shape[1]))
        off.append(masked_error(error, ~mask, teacher.shape[1]))
    return torch.stack(on).mean(), torch.stack(off).mean()
