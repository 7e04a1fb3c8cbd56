"""A training batch: images in one image space and their objects."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Targets(NamedTuple):
    """The objects of one picture.

    Attributes:
        boxes: (n, 4) float32 xyxy, pixels of the letterboxed input; each has an area.
        labels: (n,) int64 in 0..K-1.
    """

    boxes: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Targets":
        """Return the same targets on `device`."""
        return Targets(
            self.boxes.to(device, non_blocking=True), self.labels.to(device, non_blocking=True)
        )


class ScoredBoxes(NamedTuple):
    """What a teacher found on one picture.

    Attributes:
        boxes: (n, 4) float32 xyxy, pixels; the holder states in which frame.
        labels: (n,) int64, the student's classes 0..K-1.
        scores: (n,) float32 in 0..1.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def to(self, device: torch.device) -> "ScoredBoxes":
        """Return the same boxes on `device`."""
        return ScoredBoxes(*(one.to(device, non_blocking=True) for one in self))


class Batch(NamedTuple):
    """Images as a detector takes them: letterboxed RGB in 0..1, padded right and below.

    A tuple, since Lightning Fabric rebuilds its inputs under AMP and cannot rebuild a frozen
    dataclass.

    The first `labeled` images have labels; the others serve distillation only and have empty
    targets. Detectors compute task losses on the first `labeled` alone.

    Attributes:
        images: (B, 3, H, W) float32.
        targets: B entries.
        sizes: (B, 2) int64, height and width of the picture inside the letterbox.
        image_ids: B dataset ids, for messages.
        labeled: how many of the B pictures are labelled.
        taught: B entries, what a teacher found on the pictures beforehand, pixels of these images;
            empty without such a teacher.
        rows: the B rows in the store of a teacher's outputs, for fixed views; else empty.
    """

    images: Tensor
    targets: tuple[Targets, ...]
    sizes: Tensor
    image_ids: tuple[int, ...]
    labeled: int
    taught: tuple[ScoredBoxes, ...] = ()
    rows: tuple[int, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on `device`."""
        return self._replace(
            images=self.images.to(device, non_blocking=True),
            targets=tuple(target.to(device) for target in self.targets),
            sizes=self.sizes.to(device, non_blocking=True),
            taught=tuple(found.to(device) for found in self.taught),
        )


def no_targets(device: torch.device) -> Targets:
    """Return the targets of a picture without objects."""
    labels = torch.zeros(0, dtype=torch.int64, device=device)
    return Targets(torch.zeros(0, 4, device=device), labels)


def full_size(images: Tensor) -> Tensor:
    """Return (B, 2) heights and widths of images that fill their whole tensor (B, 3, H, W)."""
    height, width = images.shape[-2:]
    return torch.tensor([[height, width]], device=images.device).repeat(images.shape[0], 1)


def boxes_per_image(targets: Sequence[Targets]) -> list[Tensor]:
    """Return the boxes alone, a list of (n, 4)."""
    return [target.boxes for target in targets]
