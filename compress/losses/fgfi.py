"""FGFI: imitate the cells whose anchors lie near an object (Wang et al., CVPR 2019).

Follows the pyramid form of DeFeat's authors: a box is used only on the level of its size, the
adapter is a convolution without activation, and the squared error is averaged over elements. The
original release has a single map with every box (`levels: all`), an adapter that ends in a ReLU
(`activation: relu`), a mean over cells (`average: cells`) and a weight of 0.01 from step 400 on
(`start`).
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou

from compress.batch import Batch, boxes_per_image
from compress.detector import DetectorSpec, Knowledge, Outputs
from compress.losses.parts.levels import check_levels, pair_levels
from compress.losses.parts.loss import DistillationLoss, LossSection
from compress.losses.parts.masked_error import mean_masked_error
from compress.losses.parts.masks import box_levels, nearest, stack_boxes

OVERLAPS_AT_ONCE = 2**23  # entries of one IoU matrix


class FgfiConfig(LossSection):
    """The choice of cells, and how their error is averaged."""

    asks: ClassVar[frozenset[Knowledge]] = frozenset({"features", "anchors"})

    type: Literal["fgfi"]
    phi: float = Field(default=0.5, ge=0, lt=1)  # share of a box's best IoU
    levels: Literal["assigned", "all"] = "assigned"  # on which a box is used
    activation: Literal["none", "relu"] = "none"  # after the adapter
    average: Literal["elements", "cells"] = "elements"  # elements are cells times channels

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        return check_levels(student, teacher)

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Fgfi":
        """Return the loss for this pair."""
        return Fgfi(self, student, teacher)


class Fgfi(DistillationLoss[FgfiConfig]):
    """The error at cells near objects, averaged over levels."""

    def __init__(self, config: FgfiConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.levels = pair_levels(student, teacher)
        self.adapters = nn.ModuleList(
            nn.Conv2d(own, other, kernel_size=3, padding=1)
            for own, other in self.levels.channels(student.channels, teacher.channels)
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `feature`."""
        maps = self.levels.select(student.features, teacher.features)
        masks = [
            nearest(mask, other)
            for mask, (_, other) in zip(
                self.masks(student, boxes_per_image(batch.targets)), maps, strict=True
            )
        ]
        pairs = [
            (self._adapt(adapter, own), other)
            for adapter, (own, other) in zip(self.adapters, maps, strict=True)
        ]
        by_element = self.config.average == "elements"
        return {"feature": mean_masked_error(pairs, masks, count_channels=by_element)}

    def _adapt(self, adapter: nn.Module, maps: Tensor) -> Tensor:
        adapted: Tensor = adapter(maps)
        return functional.relu(adapted) if self.config.activation == "relu" else adapted

    @torch.no_grad()
    def masks(self, student: Outputs, boxes: Sequence[Tensor]) -> list[Tensor]:
        """Return the cells of the student's L paired maps near a box, bool (B, H_l, W_l)."""
        stacked, picture = stack_boxes(boxes)
        own = box_levels(stacked, len(self.levels.student))
        found = []
        for level, index in enumerate(self.levels.student):
            chosen = torch.ones_like(own, dtype=torch.bool)
            if self.config.levels == "assigned":
                chosen = own == level
            height, width = student.features[index].shape[-2:]
            near = near_cells(
                stacked[chosen],
                picture[chosen],
                len(boxes),
                student.anchors[index],
                cells=height * width,
                phi=self.config.phi,
            )
            found.append(near.view(len(boxes), height, width))
        return found


def near_cells(
    boxes: Tensor, picture: Tensor, pictures: int, anchors: Tensor, *, cells: int, phi: float
) -> Tensor:
    """Return the cells with an anchor that overlaps a box by more than `phi` of the box's best.

    Args:
        boxes: (M, 4) xyxy, input pixels.
        picture: (M,) index of each box's picture.
        pictures: B.
        anchors: (cells * A, 4) xyxy, by cell, then anchor.
        cells: number of cells of the map, row by row.
        phi: a share of the largest overlap of each box with any of the anchors.

    Returns:
        (B, cells) bool; a box that no anchor overlaps marks none.
    """
    count = boxes.new_zeros((pictures, cells))
    at_once = max(1, OVERLAPS_AT_ONCE // max(1, anchors.shape[0]))
    for some, theirs in zip(
        torch.split(boxes, at_once), torch.split(picture, at_once), strict=True
    ):
        # a cell counts by its best anchor
        overlap = box_iou(some, anchors.to(some)).unflatten(1, (cells, -1)).amax(dim=2)
        near = overlap > phi * overlap.amax(dim=1, keepdim=True)
        count.index_add_(0, theirs, near.to(count))
    return count > 0
