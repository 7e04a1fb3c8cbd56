"""Do two engines see the same? Compares detections as sets, never by position."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.detections import Detections

_MIN_IOU = 0.5


@dataclass(frozen=True)
class Parity:
    """How far the detections of one engine are from a reference.

    Attributes:
        matched: pairs of the same class that overlap by an IoU of at least 0.5.
        missing: of the reference, without a partner.
        extra: of the other, without a partner.
        max_score_difference: over the pairs; 0 without pairs.
        max_box_difference_px: largest difference of a coordinate over the pairs.
        worst_image: index of the picture that differs most; None where all are equal.
    """

    matched: int
    missing: int
    extra: int
    max_score_difference: float
    max_box_difference_px: float
    worst_image: int | None

    def ok(self, score_tolerance: float = 1e-3, box_tolerance_px: float = 0.5) -> bool:
        """Say whether every detection has a partner within the tolerances."""
        return (
            self.missing == 0
            and self.extra == 0
            and self.max_score_difference <= score_tolerance
            and self.max_box_difference_px <= box_tolerance_px
        )

    def to_dict(self) -> dict[str, float]:
        """Return the figures for `Manifest.parity`."""
        return {
            "matched": float(self.matched),
            "missing": float(self.missing),
            "extra": float(self.extra),
            "max_score_difference": self.max_score_difference,
            "max_box_difference_px": self.max_box_difference_px,
        }


def compare_detections(
    reference: list[Detections], other: list[Detections], min_score: float = 0.05
) -> Parity:
    """Match two engines' detections of the same pictures, both in the same frame.

    Pairs share a class and an IoU of at least 0.5; of all such pairs the most alike (score
    difference plus 1 - IoU) are taken first, so tied scores cannot cross. Detections below
    `min_score` may serve as partners but are not missed, so that none is lost to a threshold
    that falls between its two scores: select both sides with a lower threshold than `min_score`.

    Raises:
        ValueError: the two lists do not hold the same number of pictures.
    """
    if len(reference) != len(other):
        raise ValueError(f"{len(reference)} pictures against {len(other)}; expected as many")
    totals = np.zeros(3, dtype=np.int64)  # matched, missing, extra
    worst, worst_image = (0, 0.0, 0.0), None
    score_difference = box_difference = 0.0
    for index, (ours, theirs) in enumerate(zip(reference, other, strict=True)):
        left, right = _match(ours, theirs)
        counted = np.maximum(ours.scores[left], theirs.scores[right]) >= min_score
        left, right = left[counted], right[counted]
        missing = int((ours.scores >= min_score).sum() - (ours.scores[left] >= min_score).sum())
        extra = int((theirs.scores >= min_score).sum() - (theirs.scores[right] >= min_score).sum())
        scores = _largest(ours.scores[left] - theirs.scores[right])
        boxes = _largest(ours.boxes[left] - theirs.boxes[right])
        totals += (len(left), missing, extra)
        score_difference, box_difference = max(score_difference, scores), max(box_difference, boxes)
        if (missing + extra, scores, boxes) > worst:
            worst, worst_image = (missing + extra, scores, boxes), index
    matched, missing, extra = totals.tolist()
    return Parity(matched, missing, extra, score_difference, box_difference, worst_image)


def _match(ours: Detections, theirs: Detections) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of the pairs, one array per side."""
    overlap = _iou(ours.boxes, theirs.boxes)
    possible = (ours.labels[:, None] == theirs.labels[None]) & (overlap >= _MIN_IOU)
    rows, columns = np.nonzero(possible)
    apart = np.abs(ours.scores[rows] - theirs.scores[columns]) + 1 - overlap[rows, columns]
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for pair in np.argsort(apart, kind="stable"):
        row, column = int(rows[pair]), int(columns[pair])
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return np.array(list(pairs), dtype=np.intp), np.array(list(pairs.values()), dtype=np.intp)


def _iou(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n, m) overlaps; a box without area overlaps its equal wholly."""
    a, b = ours[:, None].astype(np.float64), theirs[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(min=0).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    equal = np.abs(a - b).max(axis=-1) < 1.0
    overlap: NDArray[np.float64] = np.where(
        union > 0, shared / np.where(union > 0, union, 1), equal
    )
    return overlap


def _largest(differences: NDArray[np.float32]) -> float:
    return float(np.abs(differences).max()) if differences.size else 0.0
