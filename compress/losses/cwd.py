"""CWD: imitate the spatial distribution of each channel (Shu et al., ICCV 2021).

Each channel is turned into a distribution over the cells of its map by a softmax. The paper is on
segmentation; weight and temperature for detectors follow the OpenMMLab toolkit. No published
settings are known for dense class logits; there a channel is one class at one anchor of a cell.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from compress.batch import Batch
from compress.detector import Dense, DetectorSpec, Knowledge, Outputs
from compress.losses.parts.alignment import AlignedLevels, MapLoss, MapSection
from compress.losses.parts.levels import check_classes
from compress.parts.processes import mean_of_batch
from export.config import PositiveFloat, Temperature


class CwdConfig(MapSection):
    """What is compared, and the temperature."""

    type: Literal["cwd"]
    weight: PositiveFloat | Literal["auto"] = 10.0
    source: Literal["features", "class_logits"] = "features"
    temperature: Temperature = 1.0  # tau

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:  # noqa: ARG002 - others depend on the pair
        """Return what to ask of both detectors."""
        return frozenset({"features"} if self.source == "features" else {"features", "dense"})

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = super().check(student, teacher)
        if self.source == "class_logits":
            problems += check_classes(student, teacher)
            if student.locations != teacher.locations:
                problems.append(
                    "source: class_logits compares scores place by place, but the student's are at "
                    f"{student.locations!r} and the teacher's at {teacher.locations!r}; give both "
                    "the same family, levels and anchors, or set source: features"
                )
        return problems

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Cwd":
        """Return the loss for this pair."""
        return Cwd(self, student, teacher)


class Cwd(MapLoss[CwdConfig]):
    """One term on maps or class logits; maps with other channels pass through a 1x1 convolution."""

    def __init__(self, config: CwdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.maps: AlignedLevels | None = None
        if config.source == "features":
            self.maps = AlignedLevels(student, teacher, config.levels, bias=False)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `feature` or `class`, summed over levels."""
        if self.maps is not None:
            name, pairs = "feature", self.maps(student.features, teacher.features)
        else:
            name, pairs = "class", self._class_maps(student, teacher)
        divergences = [
            channel_divergence(own, other, self.config.temperature) for own, other in pairs
        ]
        return {name: mean_of_batch(torch.stack(divergences).sum(), len(batch.images))}

    def _class_maps(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        own, other = (class_maps(outputs.dense, outputs.features) for outputs in (student, teacher))
        return [
            (own[i], other[j])
            for i, j in zip(self.levels.student, self.levels.teacher, strict=True)
        ]


def class_maps(dense: Dense | None, features: Sequence[Tensor]) -> list[Tensor]:
    """Return the class logits as L maps (B, A * K, H_l * W_l).

    The A anchors of a cell are adjacent in (B, P, K).
    """
    if dense is None or len(dense.level_counts) != len(features):
        raise ValueError("class logits by level are compared; give Dense.level_counts for each map")
    levels = torch.split(dense.class_logits, list(dense.level_counts), dim=1)
    pictures = dense.class_logits.shape[0]
    return [
        logits.reshape(pictures, level.shape[-2] * level.shape[-1], -1).transpose(1, 2)
        for logits, level in zip(levels, features, strict=True)
    ]


def channel_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher | student) of the distributions over cells, times temperature squared.

    Shapes: (B, C, H, W) or (B, C, cells). The result is the mean over pictures and channels.
    """
    own = functional.log_softmax(student.flatten(2) / temperature, dim=2)
    other = functional.log_softmax(teacher.flatten(2) / temperature, dim=2)
    divergence = functional.kl_div(own, other, reduction="sum", log_target=True)
    return temperature**2 * divergence / (student.shape[0] * student.shape[1])
