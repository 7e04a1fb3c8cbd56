"""ReviewKD: the student's finer maps review its coarser ones (Chen et al., CVPR 2021).

The form for detectors: from the coarsest level down, each map is fused with the residual of the
level above by attention weights computed from both, and the fused map imitates the teacher's at
several resolutions. As in the released code, the resolutions used depend on the height only.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.alignment import MapLoss, MapSection
from compress.parts.batch_norm import BatchNormOverProcesses
from compress.parts.processes import mean_of_batch, process_count
from export.config import Cells, Channels


class ReviewKdConfig(MapSection):
    """The width of the fusion and the resolutions of the comparison."""

    type: Literal["reviewkd"]
    width: Channels = 256  # mid: channels in which levels are fused
    # cells per side; weights halve from one to the next
    pools: Annotated[tuple[Cells, ...], Field(max_length=16)] = (4, 2, 1)

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "ReviewKd":
        """Return the loss for this pair."""
        return ReviewKd(self, student, teacher)


class ReviewKd(MapLoss[ReviewKdConfig]):
    """One term; a fusion block per level."""

    def __init__(
        self, config: ReviewKdConfig, student: DetectorSpec, teacher: DetectorSpec
    ) -> None:
        super().__init__(config, student, teacher)
        channels = self.levels.channels(student.channels, teacher.channels)
        self.blocks = nn.ModuleList(
            Fusion(own, config.width, other, fuses=level + 1 < len(channels))
            for level, (own, other) in enumerate(channels)
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `feature`, summed over levels."""
        pairs = self.levels.select(student.features, teacher.features)
        fused = self.fuse([own for own, _ in pairs])
        errors = [
            pooled_error(own, other, self.config.pools)
            for own, (_, other) in zip(fused, pairs, strict=True)
        ]
        return {"feature": mean_of_batch(torch.stack(errors).sum(), len(batch.images))}

    def fuse(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the student's L maps, finest first, with the teacher's channels, fused."""
        fused: list[Tensor] = []
        residual: Tensor | None = None
        for block, level in zip(reversed(self.blocks), reversed(maps), strict=True):
            out, residual = block(level, residual)
            fused.append(out)
        return fused[::-1]


class Fusion(nn.Module):
    """One level: reduce, fuse with the coarser level's residual if there is one, expand."""

    def __init__(self, own: int, width: int, other: int, *, fuses: bool) -> None:
        super().__init__()
        self.reduce = normed_conv(own, width, 1)
        self.expand = normed_conv(width, other, 3)
        self.attend = nn.Conv2d(2 * width, 2, kernel_size=1) if fuses else None

    def forward(self, level: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the map to compare (B, Ct, H, W) and the residual for the finer level."""
        reduced = apply_normed(self.reduce, level)
        if self.attend is not None and residual is not None:
            coarser = functional.interpolate(residual, size=reduced.shape[-2:], mode="nearest")
            share = self.attend(torch.cat([reduced, coarser], dim=1)).sigmoid()  # (B, 2, H, W)
            reduced = reduced * share[:, :1] + coarser * share[:, 1:]
        return apply_normed(self.expand, reduced), reduced


def normed_conv(inputs: int, outputs: int, size: int) -> nn.Sequential:
    """Return a convolution without bias that keeps the map's size, and its normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel_size=size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, BatchNormOverProcesses(outputs))


def apply_normed(layers: nn.Sequential, maps: Tensor) -> Tensor:
    """Return the layers' output; a single value per channel uses the running statistics.

    Torch raises for such a map (one picture on a level of one cell) in train mode.
    """
    conv, norm = layers
    out: Tensor = conv(maps)
    assert isinstance(norm, BatchNormOverProcesses)
    if process_count() > 1 or out[:, 0].numel() > 1:
        return norm(out)  # type: ignore[no-any-return]
    return norm.by_running_statistics(out)


def pooled_error(student: Tensor, teacher: Tensor, pools: Sequence[int]) -> Tensor:
    """Return the mean squared error of two maps (B, C, H, W), averaged over resolutions.

    The maps themselves have weight 1; they are also compared pooled to q x q cells for every q
    of `pools` below H, each with half the weight of the one before.
    """
    total = functional.mse_loss(student, teacher)
    weight, weights = 1.0, 1.0
    for size in pools:
        if size >= student.shape[2]:
            continue
        weight /= 2
        own, other = (functional.adaptive_avg_pool2d(maps, size) for maps in (student, teacher))
        total = total + weight * functional.mse_loss(own, other)
        weights += weight
    return total / weights
