"""Run an engine over a labelled set and compute the metrics of its detections."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import METRICS
from benchmarks.accuracy.metric import CocoResult, MetricValues
from benchmarks.data.image_set import GroundTruth, ImageSet, read_canvas
from benchmarks.data.parts.class_names import composed
from export.artifact.manifest import InputSpec, Manifest
from export.atomic import write_json
from export.detections import Detections
from export.engine import Engine, Placed, in_photographs
from export.errors import DataError, ExportError
from export.pictures.ahead import decoded_ahead
from export.pictures.images import Images, to_input

# Decimals of boxes (pixels) and scores. Rounding comes before scoring, so that AP from the saved
# file equals AP from memory.
BOX_DECIMALS = 3
SCORE_DECIMALS = 7


def predict(
    engine: Engine,
    images: ImageSet,
    *,
    batch: int = 8,
    indices: Sequence[int] | None = None,
    other_classes: bool = False,
) -> list[CocoResult]:
    """Detect objects in `images` (or those at `indices`); return COCO results.

    Boxes are xywh pixels of the upright original. The evaluation threshold, NMS and the number
    of detections kept are the manifest's. Pictures are decoded ahead in threads. A graph with a
    static batch is fed one picture at a time.

    Args:
        engine: a model that is already open (inside its `with`).
        images: the labelled set.
        batch: pictures per call.
        indices: pictures to take, default all.
        other_classes: accept a model with classes that the set does not have; its detections of
            those are left out.

    Raises:
        DataError: the set's classes differ from the model's, or a picture cannot be read.
    """
    manifest = engine.manifest
    categories = category_of_label(manifest, images, other_classes=other_classes)
    images = replace(images, bit_depth=manifest.input.bit_depth)  # the model's, not the set's
    chosen = range(len(images)) if indices is None else indices
    size = batch if manifest.input.dynamic_batch else 1
    results: list[CocoResult] = []
    for members, placed, tensor in _batches(images, chosen, size, manifest.input):
        found = engine.candidates(tensor)
        _check_finite(found.scores, found.boxes, manifest, images, members)
        detected = in_photographs(found, placed, manifest.nms, manifest.evaluation_score_threshold)
        for index, detections in zip(members, detected, strict=True):
            results.extend(coco_results(detections, images.images[index].id, categories))
    return results


def coco_results(
    detections: Detections, image_id: int, categories: Sequence[int | None]
) -> list[CocoResult]:
    """Return detections in photograph pixels as COCO results, rounded as they are saved.

    A label whose category is None is left out.
    """
    corners = detections.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return [
        {
            "image_id": image_id,
            "category_id": category,
            "bbox": [round(value, BOX_DECIMALS) for value in box],
            "score": round(score, SCORE_DECIMALS),
        }
        for box, score, label in zip(
            boxes.tolist(),
            detections.scores.astype(np.float64).tolist(),
            detections.labels.tolist(),
            strict=True,
        )
        if (category := categories[label]) is not None
    ]


def compute_metrics(
    results: Sequence[CocoResult],
    ground_truth: GroundTruth,
    artifact: Path,
    known: Mapping[str, MetricValues] | None = None,
) -> dict[str, MetricValues]:
    """Return the values of every entry of `METRICS`, by its name.

    Args:
        results: detections of the artifact on the whole set.
        ground_truth: the labelled set.
        artifact: the file that made the detections.
        known: values from an earlier computation, which are reused.
    """
    found = dict(known or {})
    for name, metric in METRICS.items():
        if name not in found:
            found[name] = metric(results, ground_truth, artifact)
    return found


def save_predictions(results: Sequence[CocoResult], path: Path) -> None:
    """Write COCO results atomically; floats are written so that they read back exactly."""
    write_json(list(results), path, indent=None)


def category_of_label(
    manifest: Manifest, images: ImageSet, *, other_classes: bool = False
) -> tuple[int | None, ...]:
    """Return the set's category id for each of the model's labels, matched by class name.

    With `other_classes` the model may have classes that the set lacks; their ids are None.

    Raises:
        DataError: the two lists do not hold the same classes.
    """
    known = dict(zip(images.classes, images.category_ids, strict=True))
    names = [composed(name) for name in manifest.classes]
    if set(known) != set(names) and not other_classes:
        only_model = sorted(set(names) - set(known))
        only_data = sorted(set(known) - set(names))
        raise DataError(
            f"{images.source}: classes differ from the model's: "
            f"only the model has {only_model}, only the data have {only_data}; "
            "evaluate on data with the classes that the model was trained on"
        )
    return tuple(known.get(name) for name in names)


def _batches(
    images: ImageSet, indices: Sequence[int], batch: int, spec: InputSpec
) -> Iterator[tuple[list[int], list[Placed], Images]]:
    """Yield picture indices, letterboxed pictures and their tensor."""

    def decode(index: int) -> Placed:
        canvas, frame = read_canvas(images, index, spec.height, spec.width, spec.fill)
        image = images.images[index]
        return Placed(canvas, frame, image.width, image.height)

    for members, placed in decoded_ahead(indices, batch, decode):
        yield members, placed, to_input([one.canvas for one in placed], spec)


def _check_finite(
    scores: NDArray[np.float32],
    boxes: NDArray[np.float32],
    manifest: Manifest,
    images: ImageSet,
    members: Sequence[int],
) -> None:
    if np.isfinite(scores).all() and np.isfinite(boxes).all():
        return
    names = ", ".join(images.images[index].file_name for index in members)
    raise ExportError(
        f"{manifest.model} ({manifest.backend}, {manifest.precision}): boxes or scores are not "
        f"finite on {names}; the artifact is broken at this precision, try fp32"
    )
