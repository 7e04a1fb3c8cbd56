"""LD: imitate the distribution of each box edge (Zheng et al., CVPR 2022).

Applied in two regions: the positive locations of the student's assigner, and the valuable
localisation region, whose anchors lie near a box but overlap it too little to be positive. Departs
from the released code in two places: by default each region's sum is divided by the sum of its
weights, as in the box losses (`normalize: none` is the code's), and a batch without boxes gives 0.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torchvision.ops import box_iou, distance_box_iou

from compress.batch import Batch, boxes_per_image
from compress.detector import Dense, DetectorSpec, Knowledge, Outputs
from compress.losses.parts.levels import check_classes, check_locations
from compress.losses.parts.loss import DistillationLoss, LossSection, check_weights, weigh
from compress.losses.parts.masks import stack_boxes
from compress.losses.parts.responses import divergence, edge_divergence
from compress.parts.atss import atss_thresholds
from compress.parts.processes import over_batch, sum_of_batch
from export.config import NonNegativeFloat, PositiveFloat, Temperature


class LdConfig(LossSection):
    """Weights and temperatures of the two regions and the class term."""

    type: Literal["ld"]
    temperature: Temperature = 10.0  # T of the edges; the loss is multiplied by its square
    main_weight: NonNegativeFloat = 0.25
    main_divisor: PositiveFloat = 4.0  # of the sum over edges
    region_weight: NonNegativeFloat = 0.25
    region_divisor: PositiveFloat = 16.0  # for the valuable region
    region_lower: float = Field(0.25, ge=0, lt=1)  # DIoU where the region begins / where it ends
    normalize: Literal["sum", "none"] = "sum"  # divide each region by the sum of its weights
    class_weight: NonNegativeFloat = 10.0
    class_temperature: Temperature = 2.0

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:  # noqa: ARG002 - others depend on the pair
        """Return what to ask of both detectors: anchors only for the valuable region."""
        anchors: frozenset[Knowledge] = frozenset({"anchors"} if self.region_weight else ())
        return anchors | {"dense", "dfl"}

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = check_locations(student, teacher)
        if student.dfl_bins != teacher.dfl_bins:
            problems.append(
                "the distributions of the edges are compared bin by bin, but the student has "
                f"{student.dfl_bins} bins and the teacher {teacher.dfl_bins}; give both the same "
                "reg_max"
            )
        if self.class_weight:
            problems += check_classes(student, teacher)
            if student.num_classes == 1:
                problems.append(
                    "the class term is a softmax over the classes, which one class alone leaves "
                    "at 1; set class_weight: 0"
                )
        return problems + check_weights(self.main_weight, self.region_weight, self.class_weight)

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Ld":
        """Return the loss for this pair."""
        return Ld(self, student, teacher)


class Ld(DistillationLoss[LdConfig]):
    """Edge terms in the main and the valuable region, and a class term in the main one."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `main`, `region` and `class`; 0 where there are no boxes."""
        own, other = student.dense, teacher.dense
        if own is None or other is None:
            raise ValueError("LD compares edge by edge; ask both detectors for `dfl`")
        config, boxes = self.config, boxes_per_image(batch.targets)
        terms: dict[str, tuple[float, Tensor]] = {}
        if config.main_weight or config.class_weight:
            positive = own.match(batch.targets) >= 0  # (B, P)
            logits = own.class_logits[positive]  # (R, K)
            sure = logits.detach().sigmoid().amax(dim=1)
            value = self.edges(own, other, positive, sure) / config.main_divisor
            terms["main"] = (config.main_weight, value)
            apart = divergence(logits, other.class_logits[positive], config.class_temperature)
            value = over_batch(apart.sum() / logits.shape[1], positive.sum())
            terms["class"] = (config.class_weight, value)
        if config.region_weight:
            overlap = valuable_region(
                torch.cat(student.anchors), own.level_counts, boxes, config.region_lower
            )
            near = overlap > 0
            value = self.edges(own, other, near, overlap[near]) / config.region_divisor
            terms["region"] = (config.region_weight, value)
        return weigh(terms)

    def edges(self, student: Dense, teacher: Dense, region: Tensor, weight: Tensor) -> Tensor:
        """Return a region's term before its divisor.

        Args:
            student: predictions at P locations, with `dfl_logits`.
            teacher: predictions at the same locations.
            region: (B, P) bool, R of them true.
            weight: (R,).
        """
        if student.dfl_logits is None or teacher.dfl_logits is None:
            raise ValueError("LD compares edge by edge; ask both detectors for `dfl`")
        own, other = student.dfl_logits[region], teacher.dfl_logits[region]
        value = edge_term(own, other, weight, self.config.temperature)
        if self.config.normalize == "none":
            return sum_of_batch(value)
        return over_batch(value, weight.sum())


def edge_term(student: Tensor, teacher: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Return the weighted sum of the edges' divergences; mean over bins, as in the code.

    Args:
        student: logits (R, 4 * bins), edge by edge.
        teacher: logits (R, 4 * bins), detached.
        weight: (R,).
        temperature: temperature of both softmaxes.
    """
    bins = student.shape[-1] // 4
    return (weight * edge_divergence(student, teacher, temperature)).sum() / bins


@torch.no_grad()
def valuable_region(
    anchors: Tensor, level_counts: Sequence[int], boxes: Sequence[Tensor], lower: float
) -> Tensor:
    """Weigh the anchors near each box by their IoU with it.

    An anchor is near a box if its DIoU with it is below the overlap of a positive by ATSS's rule,
    but at least `lower` times that. An anchor near several boxes takes the highest IoU.

    Args:
        anchors: (P, 4) xyxy, level-major.
        level_counts: how many of the P anchors each level has.
        boxes: one (n, 4) xyxy tensor per picture; n may be 0.
        lower: share of the threshold.

    Returns:
        (B, P) IoU inside the region, 0 outside.
    """
    flat, picture = stack_boxes(boxes)
    weight = anchors.new_zeros(len(boxes), len(anchors))
    if len(flat) == 0:
        return weight
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    _, _, threshold = atss_thresholds(centres, anchors, level_counts, flat)
    distance = distance_box_iou(flat, anchors)  # (G, P)
    near = (distance >= lower * threshold[:, None]) & (distance < threshold[:, None])
    overlap = box_iou(flat, anchors) * near
    return weight.scatter_reduce(0, picture[:, None].expand_as(overlap), overlap, "amax")
