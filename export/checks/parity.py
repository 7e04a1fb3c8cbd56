"""Compare the detections of two engines as sets, not by position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.detections import Detections
from export.draw import draw_boxes
from export.engine import Engine, detect_on_canvases
from export.pictures.images import to_input

_MIN_IOU = 0.5
_LOW_SCORE = 0.01  # selection threshold; differences count from 0.05


BANDS = (0.05, 0.25, 0.5, 0.75)  # lower ends of the bands that lost and extra boxes fall into


@dataclass(frozen=True)
class Gate:
    """Tolerances between an artifact's detections and torch's.

    Attributes:
        score_tolerance: allowed score difference of a pair.
        box_tolerance_px: allowed difference of a pair's coordinates.
        unmatched_share: share of detections that may lack a partner within both tolerances:
            sums in another order can change which of two close boxes is suppressed.
    """

    score_tolerance: float = 1e-3
    box_tolerance_px: float = 0.5
    unmatched_share: float = 0.002


@dataclass(frozen=True)
class Parity:
    """How far the detections of one engine are from a reference.

    Attributes:
        matched: pairs of the same class that overlap by an IoU of at least 0.5.
        missing: detections of the reference without a partner.
        extra: detections of the other engine without a partner.
        max_score_difference: over the pairs; 0 without pairs.
        max_box_difference_px: largest difference of a coordinate over the pairs.
        worst_image: index of the picture that differs most; None where all are equal.
        score_differences: score difference of each pair.
        box_differences_px: largest coordinate difference of each pair.
        overlaps: IoU of each pair.
        reference_bands: detections of the reference by score, one count per band of `BANDS`.
        missing_bands: missing detections by score, as `reference_bands`.
        extra_bands: extra detections by score, as `reference_bands`.
    """

    matched: int
    missing: int
    extra: int
    max_score_difference: float
    max_box_difference_px: float
    worst_image: int | None
    score_differences: NDArray[np.float64]
    box_differences_px: NDArray[np.float64]
    overlaps: NDArray[np.float64]
    reference_bands: tuple[int, ...]
    missing_bands: tuple[int, ...]
    extra_bands: tuple[int, ...]

    def ok(self, gate: Gate | None = None) -> bool:
        """Whether the gate is passed; without a gate, every detection needs a close partner."""
        gate = gate or Gate(unmatched_share=0.0)
        apart = (self.score_differences > gate.score_tolerance) | (
            self.box_differences_px > gate.box_tolerance_px
        )
        unmatched = max(self.missing, self.extra) + int(apart.sum())
        return unmatched <= gate.unmatched_share * (self.matched + self.missing)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for `Manifest.parity`."""
        ends = (*BANDS[1:], 1.0)
        bands = zip(
            BANDS, ends, self.reference_bands, self.missing_bands, self.extra_bands, strict=True
        )
        return {
            "matched": self.matched,
            "missing": self.missing,
            "extra": self.extra,
            "max_score_difference": self.max_score_difference,
            "mean_score_difference": float(self.score_differences.mean()) if self.matched else 0.0,
            "max_box_difference_px": self.max_box_difference_px,
            "mean_iou": float(self.overlaps.mean()) if self.matched else 1.0,
            "min_iou": float(self.overlaps.min()) if self.matched else 1.0,
            "worst_image": self.worst_image,
            "bands": [
                {"from": low, "to": high, "reference": count, "missing": lost, "extra": more}
                for low, high, count, lost, more in bands
            ],
        }


def compare_detections(
    reference: Sequence[Detections], other: Sequence[Detections], min_score: float = 0.05
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
    worst, worst_image = (0, 0.0, 0.0), None
    pairs: list[NDArray[np.float64]] = []  # rows: score difference, box difference, IoU
    counted: list[list[NDArray[np.float32]]] = [[], [], []]  # scores: reference, missing, extra
    for index, (ours, theirs) in enumerate(zip(reference, other, strict=True)):
        left, right, overlap = _match(ours, theirs)
        missing = np.delete(ours.scores, left)
        extra = np.delete(theirs.scores, right)
        missing, extra = missing[missing >= min_score], extra[extra >= min_score]
        seen = np.maximum(ours.scores[left], theirs.scores[right]) >= min_score
        left, right, overlap = left[seen], right[seen], overlap[seen]
        scores = np.abs(ours.scores[left] - theirs.scores[right])
        boxes = np.abs(ours.boxes[left] - theirs.boxes[right]).max(axis=1, initial=0)
        pairs.append(np.stack([scores, boxes, overlap]).astype(np.float64))
        for found, values in zip(
            counted, (ours.scores[ours.scores >= min_score], missing, extra), strict=True
        ):
            found.append(values)
        distance = (
            len(missing) + len(extra),
            float(scores.max(initial=0)),
            float(boxes.max(initial=0)),
        )
        if distance > worst:
            worst, worst_image = distance, index
    scores_apart, boxes_apart, overlaps = (
        np.concatenate(pairs, axis=1) if pairs else np.zeros((3, 0))
    )
    everyone, lost, more = (np.concatenate([np.zeros(0), *found]) for found in counted)
    return Parity(
        matched=len(overlaps),
        missing=len(lost),
        extra=len(more),
        max_score_difference=float(scores_apart.max(initial=0)),
        max_box_difference_px=float(boxes_apart.max(initial=0)),
        worst_image=worst_image,
        score_differences=scores_apart,
        box_differences_px=boxes_apart,
        overlaps=overlaps,
        reference_bands=_by_band(everyone),
        missing_bands=_by_band(lost),
        extra_bands=_by_band(more),
    )


def unstable(engine: Engine, canvases: Sequence[NDArray[np.uint8]]) -> list[str]:
    """Return, in words, how an open engine's boxes depend on more than the picture.

    Empty if they do not: the same call twice gives the same bytes and, with a dynamic batch, each
    picture gives the same detections at every position of a batch.
    """
    spec = engine.manifest.input
    problems = []
    first = engine.candidates(to_input(canvases[:1], spec))
    again = engine.candidates(to_input(canvases[:1], spec))
    if not (
        np.array_equal(first.boxes, again.boxes)
        and np.array_equal(first.scores, again.scores)
        and np.array_equal(first.labels, again.labels)
    ):
        problems.append("the same picture gives other boxes when it is passed again")
    if spec.dynamic_batch and len(canvases) > 1:
        part = list(canvases[:3])
        alone = [detect_on_canvases(engine, [canvas], _LOW_SCORE)[0] for canvas in part]
        for shift in range(len(part)):
            turned = part[shift:] + part[:shift]
            found = detect_on_canvases(engine, turned, _LOW_SCORE)
            parity = compare_detections(alone[shift:] + alone[:shift], found)
            if not parity.ok(Gate()):
                problems.append(
                    f"pictures in a batch of {len(part)}, turned by {shift}, give other boxes than "
                    f"alone: {parity.missing} missing, {parity.extra} extra, scores within "
                    f"{parity.max_score_difference:.2g}, boxes within "
                    f"{parity.max_box_difference_px:.2g} px"
                )
    return problems


def draw_difference(
    canvas: NDArray[np.uint8], reference: Detections, other: Detections, classes: Sequence[str]
) -> NDArray[np.uint8]:
    """Return one picture with both sides' boxes, the reference at the left."""
    sides = [draw_boxes(canvas, found, classes) for found in (reference, other)]
    return np.concatenate(sides, axis=1)


def _by_band(scores: NDArray[np.float64]) -> tuple[int, ...]:
    places = np.searchsorted(np.array(BANDS[1:]), scores, side="right")
    return tuple(np.bincount(places, minlength=len(BANDS)).tolist())


def _match(
    ours: Detections, theirs: Detections
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the indices of the pairs, one array per side, and their IoU."""
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
    left = np.array(list(pairs), dtype=np.intp)
    right = np.array(list(pairs.values()), dtype=np.intp)
    return left, right, overlap[left, right]


def _iou(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n, m) overlaps; a box without area has an IoU of 1 with its equal."""
    a, b = ours[:, None].astype(np.float64), theirs[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(min=0).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    equal = np.abs(a - b).max(axis=-1) < 1.0
    overlap: NDArray[np.float64] = np.where(
        union > 0, shared / np.where(union > 0, union, 1), equal
    )
    return overlap
