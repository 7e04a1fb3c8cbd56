"""A detector that is ready to run."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.evaluate import predict
from benchmarks.accuracy.metric import CocoResult
from benchmarks.data.folder import read_measured
from benchmarks.data.image_set import coco_ground_truth
from export.artifact.manifest import Manifest
from export.detections import Detections
from export.engine import Engine, detect
from export.errors import DataError, ExportError, counted
from export.predictions import predict as predict_file
from slimdet.arguments import a_path, a_score, a_word
from slimdet.pictures import Picture, listed, read_pictures
from slimdet.result import Result


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of a model on a labelled set.

    Attributes:
        values: COCO's twelve metrics by name (`AP`, `AP50`, `AR100`, ...) in 0..1; None where the
            set has nothing to measure.
        per_class: AP by class name.
        results: the detections in COCO's results format, with the set's picture and category ids.
    """

    values: Mapping[str, float | None]
    per_class: Mapping[str, float | None]
    results: list[CocoResult] = field(repr=False)


class Model:
    """An open detector; `slimdet.load` makes one.

    Use it in a `with` statement, or call `close`, to free the runtime's memory early.

    Attributes:
        path: the file that runs.
    """

    def __init__(self, engine: Engine, path: Path, resources: ExitStack) -> None:
        """Wrap an open engine; `close` also closes `resources`."""
        self.path = path
        self._engine, self._resources, self._closed = engine, resources, False

    @property
    def manifest(self) -> Manifest:
        """Input, classes, thresholds and NMS of the model, and how it was made."""
        return self._engine.manifest

    @property
    def engine(self) -> Engine:
        """The engine, for functions of the lower packages."""
        return self._engine

    @property
    def classes(self) -> tuple[str, ...]:
        """The K class names, in the order of the labels."""
        return self.manifest.classes

    def predict(
        self, source: Picture | Iterable[Picture], threshold: float | None = None
    ) -> list[Result]:
        """Detect objects; return one result per picture, in the order of the pictures.

        Args:
            source: a picture, or several of them: the path of a file, the path of a folder (all its
                pictures, sorted), an array, or a PIL picture. Arrays are (H, W, 3) RGB, (H, W)
                grey or (H, W, 4) RGB with alpha, in uint8, uint16 or floats in 0..1; of OpenCV's
                BGR give `pixels[..., ::-1]`.
            threshold: lowest score to keep; None takes the model's own.

        Raises:
            DataError: a file is missing or not a picture, a folder holds none, an array has
                another shape or type, or the threshold is not valid.
            ExportError: the model is closed.
        """
        self._require_open()
        least = self.manifest.score_threshold
        if threshold is not None:
            least = a_score(threshold, "threshold", DataError)
        return [
            self._result(picture, least)
            for given in listed(source)
            for picture in read_pictures(given, self.manifest.input.bit_depth)
        ]

    def evaluate(
        self,
        data: str | PathLike[str],
        split: str = "val",
        *,
        images: str | PathLike[str] | None = None,
        division: str | PathLike[str] | None = None,
    ) -> Evaluation:
        """Measure accuracy on labelled pictures; classes are matched by name.

        Args:
            data: COCO annotations (JSON), or the folder of a COCO, YOLO, VOC or Roboflow data set.
            split: which split of the folder; `all` for every picture of a set without splits.
            images: folder of the pictures, for COCO annotations; looked for if None.
            division: `split.json` of the run that divided the folder.

        Raises:
            DataError: the data cannot be read, or has other classes than the model; or an argument
                is not valid.
            ExportError: the model is closed.
            MissingDependencyError: pycocotools is not installed.
        """
        self._require_open()
        labelled = read_measured(
            a_path(data, "data", DataError, "expected COCO annotations or a data set's folder"),
            a_word(split, "split", DataError, expected="the name of a split, such as val"),
            None if images is None else a_path(images, "images", DataError),
            None if division is None else a_path(division, "division", DataError),
        )
        results = predict(self._engine, labelled)
        measured = coco_map(results, coco_ground_truth(labelled))
        return Evaluation(measured.values, measured.per_class, results)

    def close(self) -> None:
        """Free the runtime and temporary files; the model cannot be used any more."""
        self._closed = True
        self._resources.close()

    def _require_open(self) -> None:
        if self._closed:
            raise ExportError(f"{self.path}: the model is closed; load it again")

    def __enter__(self) -> Self:
        """Return the model, which is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Name the file, the precision and the number of classes."""
        made = f"{self.manifest.family} {self.manifest.backend} {self.manifest.precision}"
        return (
            f"<slimdet.Model {self.path}: {made}, {counted(len(self.classes), 'class', 'classes')}>"
        )

    def _result(self, picture: Path | NDArray[np.uint8], threshold: float) -> Result:
        if isinstance(picture, Path):
            return self._named(predict_file(self._engine, picture, threshold), picture, None)
        (found,) = detect(self._engine, [picture], threshold)
        return self._named(found, None, picture)

    def _named(
        self, found: Detections, path: Path | None, pixels: NDArray[np.uint8] | None
    ) -> Result:
        ids = self.manifest.category_ids
        return Result(found.boxes, found.scores, found.labels, self.classes, ids, path, pixels)
