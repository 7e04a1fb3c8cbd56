"""COCO's twelve metrics, computed by pycocotools or faster-coco-eval.

faster-coco-eval computes the same in C++, several times faster, and is used if it is installed; a
test compares its twelve numbers with pycocotools'.
"""

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.metric import CocoResult, MetricValues
from benchmarks.data.image_set import GroundTruth
from export.errors import DataError
from export.optional import require

Judge: TypeAlias = Literal["pycocotools", "faster_coco_eval"]

COCO_NAMES = (
    "AP",
    "AP50",
    "AP75",
    "AP_S",
    "AP_M",
    "AP_L",
    "AR1",
    "AR10",
    "AR100",
    "AR_S",
    "AR_M",
    "AR_L",
)


class _Parameters(Protocol):
    imgIds: list[int]  # noqa: N815, as pycocotools spells it
    catIds: list[int]  # noqa: N815
    areaRng: list[list[float]]  # noqa: N815
    recThrs: NDArray[np.float64]  # noqa: N815


class CocoEvaluator(Protocol):
    """The parts of `COCOeval` that are used here; pycocotools has no type annotations."""

    params: _Parameters
    evalImgs: list[dict[str, Any] | None]  # noqa: N815
    eval: dict[str, Any]
    stats: Sequence[float]

    def evaluate(self) -> None:
        """Match detections with objects, picture by picture."""

    def accumulate(self) -> None:
        """Compute precision and recall from the matches."""

    def summarize(self) -> None:
        """Compute `stats`."""


def coco_metric(
    results: Sequence[CocoResult], ground_truth: GroundTruth, _artifact: Path, /
) -> MetricValues:
    """Return `coco_map` as a metric."""
    return coco_map(results, ground_truth)


def coco_map(
    results: Sequence[CocoResult], ground_truth: GroundTruth, *, judge: Judge | None = None
) -> MetricValues:
    """Compute the twelve metrics of `COCO_NAMES`, and AP by class; all in 0..1.

    Without any results the metrics are 0, not None, where objects exist.

    Args:
        results: detections; not changed.
        ground_truth: the labelled set; not changed.
        judge: implementation, faster_coco_eval or pycocotools; None takes faster-coco-eval if it
            is installed.

    Raises:
        DataError: a result names a picture or a category that the ground truth does not have.
        MissingDependencyError: pycocotools is not installed.
    """
    if judge is None:
        fast = importlib.util.find_spec("faster_coco_eval") is not None
        judge = "faster_coco_eval" if fast else "pycocotools"
    verdict = _evaluated(results, ground_truth, judge)
    with contextlib.redirect_stdout(io.StringIO()):
        verdict.accumulate()
        verdict.summarize()
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    precision = verdict.eval["precision"][:, :, :, 0, -1]  # (T, R, K) for all areas, 100 detections
    return MetricValues(
        values={
            name: _number(value) for name, value in zip(COCO_NAMES, verdict.stats[:12], strict=True)
        },
        per_class={
            names[category]: _number(_mean_where_defined(precision[:, :, k]))
            for k, category in enumerate(verdict.params.catIds)
        },
    )


def evaluate_boxes(results: Sequence[CocoResult], ground_truth: GroundTruth) -> CocoEvaluator:
    """Match boxes per picture; return pycocotools' `COCOeval`, not yet accumulated."""
    return _evaluated(results, ground_truth, "pycocotools")


def _evaluated(
    results: Sequence[CocoResult], ground_truth: GroundTruth, judge: Judge
) -> CocoEvaluator:
    if judge == "pycocotools":
        coco = require("pycocotools.coco", extra="accuracy", purpose="COCO accuracy").COCO
        cocoeval = require("pycocotools.cocoeval", extra="accuracy", purpose="COCO accuracy")
        evaluator = cocoeval.COCOeval
    else:
        faster = require("faster_coco_eval", extra="accuracy", purpose="fast COCO accuracy")
        coco, evaluator = faster.COCO, faster.COCOeval_faster
    _check_results(results, ground_truth)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco()
        truth.dataset = {
            "images": list(ground_truth["images"]),
            "categories": list(ground_truth["categories"]),
            # COCOeval takes a match with annotation id 0 for no match: number them from 1.
            "annotations": [
                {**annotation, "id": number}
                for number, annotation in enumerate(ground_truth["annotations"], start=1)
            ],
        }
        truth.createIndex()
        if results:
            found = truth.loadRes([dict(result) for result in results])
        else:  # loadRes cannot read an empty list
            found = coco()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        verdict: CocoEvaluator = evaluator(truth, found, "bbox")
        verdict.evaluate()
    return verdict


def _check_results(results: Sequence[CocoResult], ground_truth: GroundTruth) -> None:
    for key, named, known in (
        (
            "image_id",
            {result["image_id"] for result in results},
            {image["id"] for image in ground_truth["images"]},
        ),
        (
            "category_id",
            {result["category_id"] for result in results},
            {category["id"] for category in ground_truth["categories"]},
        ),
    ):
        unknown = sorted(named - known)
        if unknown:
            raise DataError(
                f"detections: {key} {unknown[0]} and {len(unknown) - 1} more are not in the "
                f"ground truth, which has {len(known)}; use the predicted set's annotations"
            )


def _mean_where_defined(precision: NDArray[np.float64]) -> float:
    """Return COCO's mean over the defined entries; -1 if none is defined."""
    defined = precision[precision > -1]
    return float(np.mean(defined)) if defined.size else -1.0


def _number(value: float) -> float | None:
    return None if value < 0 else float(value)
