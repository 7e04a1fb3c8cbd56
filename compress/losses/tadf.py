"""TADF: imitate object centres, and the teacher where it is right (Sun et al. 2020).

Reconstructed from descriptions and from helpers that DeFeat's authors released; TADF's authors
released no code, so the results were not compared with theirs. Our own choices are: masks are
evaluated at cell centres, a box is at least one cell wide for its Gaussian, the squared error is
averaged over elements (`average: cells`: over cells), all weights are 1, and each of the deltas
follows the nearer of teacher and ground truth. All terms fall to 0 over the run (`decay`).
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compress.batch import Batch, boxes_per_image
from compress.detector import DetectorSpec, Knowledge, Outputs, Rois, deltas_of
from compress.losses.parts.levels import check_classes, check_levels, pair_levels
from compress.losses.parts.loss import DistillationLoss, Source, check_weights, weigh
from compress.losses.parts.masked_error import mean_masked_error
from compress.losses.parts.masks import between, box_levels, cell_ranges, largest_product, pad_boxes
from compress.losses.parts.responses import divergence, mean_over
from compress.losses.parts.rows import RoiSection, roi_weight
from export.config import NonNegativeFloat, PositiveFloat, Temperature

AUTOMATIC_ROI_WEIGHT = 1.0


class TadfConfig(RoiSection):
    """Weights of the feature term and of the two terms on object proposals."""

    written_from: ClassVar[Source] = "reconstructed"

    type: Literal["tadf"]
    decay: Literal["none", "linear", "cosine", "up_down"] = "linear"
    feature_weight: NonNegativeFloat = 1.0
    class_weight: NonNegativeFloat | None = None  # default 1 if both have RoIs
    box_weight: NonNegativeFloat | None = None  # default 1 if both have RoIs
    spread: PositiveFloat = 0.5  # standard deviation of the Gaussian, as a share of the box's side
    average: Literal["elements", "cells"] = "elements"  # elements are cells times channels
    temperature: Temperature = 1.0

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return what to ask of both detectors."""
        if any(self.roi_weights(student, teacher)):
            return frozenset({"features", "rois"})
        return frozenset({"features"})

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        by_roi = any(self.roi_weights(student, teacher))
        problems = check_classes(student, teacher) if by_roi else []
        if self.feature_weight:
            return problems + check_levels(student, teacher)
        return problems + check_weights(by_roi)

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Tadf":
        """Return the loss for this pair."""
        return Tadf(self, student, teacher)

    def roi_weights(self, student: DetectorSpec, teacher: DetectorSpec) -> tuple[float, float]:
        """Return the weights of the class and the box term, the automatic ones resolved."""
        return (
            roi_weight(self.class_weight, AUTOMATIC_ROI_WEIGHT, student, teacher),
            roi_weight(self.box_weight, AUTOMATIC_ROI_WEIGHT, student, teacher),
        )


class Tadf(DistillationLoss[TadfConfig]):
    """A feature term under Gaussian masks, and class and box terms on object proposals."""

    def __init__(self, config: TadfConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.num_classes = student.num_classes
        self.roi_weights = config.roi_weights(student, teacher)
        self.adapters: nn.ModuleList | None = None
        if config.feature_weight:
            self.levels = pair_levels(student, teacher)
            self.adapters = nn.ModuleList(
                nn.Conv2d(own, other, kernel_size=3, padding=1)
                for own, other in self.levels.channels(student.channels, teacher.channels)
            )

    def compared(self, rois: Rois) -> Tensor:
        """Return the proposals of objects; see `DistillationLoss.compared`."""
        return rois.labels < self.num_classes

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `feature`, and with RoIs `roi_class` and `roi_box`."""
        terms: dict[str, Tensor] = {}
        if self.adapters is not None:
            maps = self.levels.select(student.features, teacher.features)
            masks = gaussian_masks(
                boxes_per_image(batch.targets),
                self.levels.strides,
                [(other.shape[-2], other.shape[-1]) for _, other in maps],
                spread=self.config.spread,
            )
            pairs = [
                (adapter(own), other)
                for adapter, (own, other) in zip(self.adapters, maps, strict=True)
            ]
            by_element = self.config.average == "elements"
            error = mean_masked_error(pairs, masks, count_channels=by_element)
            terms["feature"] = self.config.feature_weight * error
        if "rois" in self.needs and student.rois is not None and teacher.rois is not None:
            terms |= self._roi_terms(student.rois, teacher.rois)
        return terms

    def _roi_terms(self, student: Rois, teacher: Rois) -> dict[str, Tensor]:
        is_object = self.compared(student)
        in_class, in_box = self.roi_weights
        apart = divergence(student.class_logits, teacher.class_logits, self.config.temperature)
        terms = {"roi_class": (in_class, mean_over(apart, is_object))}
        if in_box:
            if student.target_deltas is None:
                raise ValueError("TADF's box term needs RoIs with `target_deltas`")
            distance = nearer_distance(
                deltas_of(student.labels, student.deltas),
                deltas_of(student.labels, teacher.deltas),
                student.target_deltas,
            )
            terms["roi_box"] = (in_box, mean_over(distance, is_object))
        return weigh(terms)


def gaussian_masks(
    boxes: Sequence[Tensor],
    strides: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    *,
    spread: float,
) -> list[Tensor]:
    """Draw a Gaussian in each box on the level of its size; overlaps take the maximum.

    Args:
        boxes: one (n, 4) xyxy tensor per picture, input pixels.
        strides: input pixels per cell of the L levels, finest first.
        sizes: height and width in cells of the L levels.
        spread: standard deviation as a share of the box's width and height, which are at least
            one cell.

    Returns:
        L weights (B, H_l, W_l) in 0..1: 1 at the centre of a box, 0 outside all boxes.
    """
    padded, real = pad_boxes(boxes)
    own = box_levels(padded, len(strides))
    found = []
    for level, (stride, size) in enumerate(zip(strides, sizes, strict=True)):
        first_x, first_y, after_x, after_y = cell_ranges(padded, stride, size)
        x1, y1, x2, y2 = (padded / stride).unbind(-1)
        drawn = real & (own == level)  # (B, n)
        rows = bell(size[0], y1, y2, spread) * between(size[0], first_y, after_y)
        columns = bell(size[1], x1, x2, spread) * between(size[1], first_x, after_x)
        found.append(largest_product(rows * drawn[..., None], columns))
    return found


def bell(cells: int, low: Tensor, high: Tensor, spread: float) -> Tensor:
    """Return a Gaussian around the middle of low..high (...), in cells, at each: (..., cells)."""
    centres = torch.arange(cells, device=low.device) + 0.5
    middle, deviation = (low + high) / 2, spread * (high - low).clamp(min=1)
    return (-0.5 * ((centres - middle[..., None]) / deviation[..., None]).square()).exp()


def nearer_distance(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Return per row of (R, 4) the mean distance of each number to the nearer of two others.

    The target is the teacher only where it is nearer than the ground truth.
    """
    to_teacher, to_target = (student - teacher).abs(), (student - target).abs()
    return torch.where(to_teacher <= to_target, to_teacher, to_target).mean(dim=1)
