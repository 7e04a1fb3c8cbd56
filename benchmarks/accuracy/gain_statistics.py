"""Confidence intervals and verdict of an AP gain, over seeds and over validation pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.coco_map import evaluate_boxes
from benchmarks.accuracy.metric import CocoResult
from benchmarks.data.image_set import GroundTruth
from benchmarks.record import Record

Verdict = Literal["proven", "not proven", "not proven (one seed)", "worse"]

# 97.5 % quantiles of Student's t for 1, 2, 3, ... degrees of freedom.
T_975 = (
    *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157),
    *(2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922),
    *(2.093024, 2.085963, 2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831),
    *(2.048407, 2.045230),
)


def gain_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % Student-t interval of the mean paired difference; None for one seed.

    Beyond 30 seeds the quantile of 30 is used; the interval is then slightly too wide.

    Raises:
        ValueError: `differences` is empty, or one is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"differences must be finite and at least one: {list(differences)}")
    if values.size == 1:
        return None
    quantile = T_975[min(values.size - 1, len(T_975)) - 1]
    half = quantile * float(values.std(ddof=1)) / math.sqrt(values.size)
    mean = float(values.mean())
    return mean - half, mean + half


def verdict(differences: Sequence[float]) -> Verdict:
    """Return whether the 95 % interval of the mean paired difference lies above zero."""
    interval = gain_interval(differences)
    if interval is None:
        return "not proven (one seed)"
    if interval[0] > 0:
        return "proven"
    return "worse" if interval[1] < 0 else "not proven"


class BootstrapGain(Record):
    """AP of one set of detections minus AP of another, on the same pictures.

    Attributes:
        ap: the difference on all pictures, 0..1 scale.
        ci95: percentile interval over samples of the validation pictures with replacement.
        samples: number of samples.
    """

    ap: float
    ci95: tuple[float, float]
    samples: int


def bootstrap_gain(
    results: Sequence[CocoResult],
    baseline: Sequence[CocoResult],
    ground_truth: GroundTruth,
    *,
    samples: int = 200,
    seed: int = 0,
) -> BootstrapGain:
    """Return the AP gain of `results` over `baseline`, with an interval over validation pictures.

    The interval covers the choice of validation pictures, not the randomness of training: it does
    not replace several seeds. Both sides are evaluated on the same samples; a picture that is drawn
    n times counts n-fold.
    """
    ours = _matches(results, ground_truth)
    theirs = _matches(baseline, ground_truth)
    pictures = len(ground_truth["images"])
    generator = np.random.default_rng(seed)
    differences = []
    for _ in range(samples):
        drawn = generator.integers(0, pictures, pictures)
        weights = np.bincount(drawn, minlength=pictures).astype(np.float64)
        differences.append(_weighted_ap(ours, weights) - _weighted_ap(theirs, weights))
    ones = np.ones(pictures)
    low, high = np.percentile(differences, [2.5, 97.5])
    return BootstrapGain(
        ap=_weighted_ap(ours, ones) - _weighted_ap(theirs, ones),
        ci95=(float(low), float(high)),
        samples=samples,
    )


@dataclass(frozen=True)
class _ClassMatches:
    """One class over all pictures, detections sorted by score.

    Attributes:
        picture: (D,) index of the picture of each detection.
        true: (T, D) matched an object at each IoU threshold.
        false: (T, D) matched nothing.
        objects: (I,) objects of the class per picture, crowds not counted.
        recalls: (R,) recall points at which precision is read.
    """

    picture: NDArray[np.int64]
    true: NDArray[np.bool_]
    false: NDArray[np.bool_]
    objects: NDArray[np.int64]
    recalls: NDArray[np.float64]


def _matches(results: Sequence[CocoResult], ground_truth: GroundTruth) -> list[_ClassMatches]:
    judge = evaluate_boxes(results, ground_truth)
    pictures, areas = len(judge.params.imgIds), len(judge.params.areaRng)
    classes = []
    for k in range(len(judge.params.catIds)):
        start = k * areas * pictures  # class-major, then area (0 is "all"), then picture
        entries = judge.evalImgs[start : start + pictures]
        present = [(i, entry) for i, entry in enumerate(entries) if entry is not None]
        objects = np.zeros(pictures, dtype=np.int64)
        for i, entry in present:
            objects[i] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
        if not objects.any():
            continue
        scores = np.concatenate([np.asarray(entry["dtScores"]) for _, entry in present])
        order = np.argsort(-scores, kind="mergesort")
        matched = np.concatenate([entry["dtMatches"] for _, entry in present], axis=1)[:, order]
        ignored = np.concatenate([entry["dtIgnore"] for _, entry in present], axis=1)[:, order]
        picture = np.concatenate(
            [np.full(len(entry["dtScores"]), i, dtype=np.int64) for i, entry in present]
        )
        classes.append(
            _ClassMatches(
                picture=picture[order],
                true=(matched > 0) & ~ignored.astype(bool),
                false=(matched == 0) & ~ignored.astype(bool),
                objects=objects,
                recalls=np.asarray(judge.params.recThrs),
            )
        )
    return classes


def _weighted_ap(classes: Sequence[_ClassMatches], weights: NDArray[np.float64]) -> float:
    """Return COCO AP with picture i counted `weights[i]`-fold; pycocotools' AP for weights of 1."""
    means = []
    for matches in classes:
        objects = float(weights @ matches.objects)
        if objects == 0:
            continue  # as COCO does for a class without objects
        weight = weights[matches.picture]
        true = np.cumsum(matches.true * weight, axis=1)  # (T, D)
        false = np.cumsum(matches.false * weight, axis=1)
        precision = true / (true + false + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        padded = np.pad(envelope, ((0, 0), (0, 1)))  # recall never reached: precision 0
        read = [
            row[np.searchsorted(reached, matches.recalls, side="left")]
            for row, reached in zip(padded, true / objects, strict=True)
        ]
        means.append(float(np.mean(read)))
    return float(np.mean(means)) if means else 0.0
