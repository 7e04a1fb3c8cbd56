"""AP of a perfect detector when limits on the number of detections cut the ground truth."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.image_set import ImageSet
from export.errors import counted

COCO_LIMIT = 100  # detections of one class and picture that COCO's AP counts
RECALLS = 101  # recall points at which COCO reads precision: 0, 0.01, ..., 1


Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Fullness:
    """Object counts of a set, without crowds.

    Attributes:
        pictures: number of pictures.
        total: (K,) objects by class.
        full: (N, K) objects by class of the pictures with more than `COCO_LIMIT` or
            `max_detections` objects.
        max_detections: maximum number of detections per picture.
    """

    pictures: int
    total: Counts
    full: Counts
    max_detections: int

    @property
    def most(self) -> int:
        """Number of objects in the fullest picture; 0 if no picture exceeds a limit."""
        return int(self.full.sum(axis=1).max(initial=0))

    @property
    def cut(self) -> int:
        """Number of pictures with more than `max_detections` objects."""
        return int((self.full.sum(axis=1) > self.max_detections).sum())

    @property
    def cut_by_coco(self) -> int:
        """Number of pictures with more than `COCO_LIMIT` objects of one class."""
        return int((self.full > COCO_LIMIT).any(axis=1).sum())

    def perfect_ap(self, max_detections: int) -> float:
        """Return AP (0..1) of a perfect detector that returns at most `max_detections` boxes.

        It returns objects of the rarest classes first, since each of them adds most to AP.
        """
        left = np.full(len(self.full), max_detections)
        lost = np.zeros_like(self.total)
        for kind in np.argsort(self.total, kind="stable"):
            kept = np.minimum(self.full[:, kind], np.minimum(left, COCO_LIMIT))
            left -= kept
            lost[kind] = (self.full[:, kind] - kept).sum()
        there = self.total > 0
        recall = 1 - lost[there] / self.total[there]
        reached = np.floor(recall * (RECALLS - 1) + 1e-9) + 1  # recall 0 is always reached
        return float(np.mean(reached / RECALLS)) if there.any() else 1.0


def fullness(images: ImageSet, max_detections: int) -> Fullness:
    """Count the objects of a set, in one pass."""
    kinds = len(images.classes)
    total, full = np.zeros(kinds, dtype=np.int64), []
    for image in images.images:
        counts = np.bincount(image.labels[~image.crowd], minlength=kinds)
        total += counts
        if counts.sum() > min(max_detections, COCO_LIMIT):
            full.append(counts)
    stacked = np.stack(full) if full else np.zeros((0, kinds), dtype=np.int64)
    return Fullness(len(images.images), total, stacked, max_detections)


def ceiling_warnings(sets: Mapping[str, ImageSet], max_detections: int) -> list[str]:
    """Return a warning for every set, by role, whose ground truth exceeds the limits."""
    lines = []
    for role, images in sets.items():
        found = fullness(images, max_detections)
        if not (found.cut or found.cut_by_coco):
            continue
        best = f"a perfect detector has AP {100 * found.perfect_ap(max_detections):.1f} there"
        of = f"of {counted(found.pictures, 'picture holds', 'pictures hold')} more than"
        coco = f"COCO's AP counts {COCO_LIMIT} detections of one class and picture"
        if not found.cut:
            line = f"{role}: {found.cut_by_coco} {of} {COCO_LIMIT} objects of one class"
            line += f": {coco}, so {best}"
        else:
            line = (
                f"{role}: {found.cut} {of} {max_detections} objects (the fullest {found.most}), "
                f"which is the most that a model returns, so {best}; raise export.max_detections"
            )
            if found.cut_by_coco:
                raised = 100 * found.perfect_ap(found.most)
                line += f" (AP then ends at {raised:.1f}: {coco})"
        if role == "train":
            line += ". The AP of 8-bit artifacts is checked on training pictures"
        lines.append(line)
    return lines
