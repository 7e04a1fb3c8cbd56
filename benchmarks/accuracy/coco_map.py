"""COCO's twelve numbers: pycocotools' word is final.

faster-coco-eval computes the same in C++, several times faster, and is used where it is installed;
the tests hold its twelve numbers equal to pycocotools'.
"""

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from export.errors import DataError
from export.optional import require

CocoResult: TypeAlias = dict[str, Any]  # image_id, category_id, bbox xywh, score
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


@dataclass(frozen=True)
class CocoMetrics:
    """What COCO's judge says; every number in 0..1, None where there is nothing to judge.

    Attributes:
        values: the twelve of `COCO_NAMES`.
        per_class: AP by class name.
    """

    values: dict[str, float | None]
    per_class: dict[str, float | None]


def coco_map(
    results: Sequence[CocoResult], ground_truth: Mapping[str, Any], *, judge: Judge | None = None
) -> CocoMetrics:
    """Judge `results` (COCO results format) by `ground_truth` (COCO annotation format).

    Neither is changed. Without a single result the numbers are 0, not None, where objects exist.
    `judge` says who computes; None takes the faster one if it is here.

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
    return CocoMetrics(
        values={
            name: _number(value) for name, value in zip(COCO_NAMES, verdict.stats[:12], strict=True)
        },
        per_class={
            names[category]: _number(_mean_where_defined(precision[:, :, k]))
            for k, category in enumerate(verdict.params.catIds)
        },
    )


def evaluate_boxes(results: Sequence[CocoResult], ground_truth: Mapping[str, Any]) -> Any:
    """Match boxes per picture; return pycocotools' `COCOeval`, not yet accumulated."""
    return _evaluated(results, ground_truth, "pycocotools")


def _evaluated(results: Sequence[CocoResult], ground_truth: Mapping[str, Any], judge: Judge) -> Any:
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
        verdict = evaluator(truth, found, "bbox")
        verdict.evaluate()
    return verdict


def _check_results(results: Sequence[CocoResult], ground_truth: Mapping[str, Any]) -> None:
    for key, known in (
        ("image_id", {image["id"] for image in ground_truth["images"]}),
        ("category_id", {category["id"] for category in ground_truth["categories"]}),
    ):
        unknown = sorted({result[key] for result in results} - known)
        if unknown:
            raise DataError(
                f"detections: {key} {unknown[0]} and {len(unknown) - 1} more are not in the "
                f"ground truth, which has {len(known)}; score the set that was predicted"
            )


def _mean_where_defined(precision: Any) -> float:
    """COCO's mean over the entries that exist; -1 when none does."""
    defined = precision[precision > -1]
    return float(np.mean(defined)) if defined.size else -1.0


def _number(value: float) -> float | None:
    return None if value < 0 else float(value)
