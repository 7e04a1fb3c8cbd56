"""Detections of one picture."""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.accuracy.evaluate import coco_results
from benchmarks.accuracy.metric import CocoResult
from export.detections import Detections
from export.draw import draw_boxes
from export.errors import DataError
from export.optional import require
from export.pictures.images import open_photograph
from slimdet.arguments import a_truth_value, a_whole_number

if TYPE_CHECKING:
    import supervision


class Detection(NamedTuple):
    """One detected object.

    Attributes:
        box: (4,) float32, xyxy in pixels of the picture.
        score: confidence in 0..1.
        label: class index in 0..K-1.
        name: class name.
    """

    box: NDArray[np.float32]
    score: float
    label: int
    name: str


@dataclass(frozen=True, eq=False, repr=False)  # comparing arrays gives no single truth value
class Result:
    """The objects that a detector found in one picture, best first; `len` is their number.

    Iteration gives one `Detection` per object.

    Attributes:
        boxes: (n, 4) float32, xyxy in pixels of the upright picture.
        scores: (n,) float32, confidence in 0..1.
        labels: (n,) int32, class index in 0..K-1.
        classes: the K class names of the model.
        category_ids: the K category ids of the data set that the model was trained on.
        path: the picture's file; None for a picture that was given as pixels.
        image: (H, W, 3) uint8 RGB of a picture that was given as pixels; None for a file.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    path: Path | None = None
    image: NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def names(self) -> list[str]:
        """Class name of each object, in the order of `boxes`."""
        return [self.classes[label] for label in self.labels]

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        """Give one `Detection` per object, best first."""
        rows = zip(self.boxes, self.scores, self.labels, self.names, strict=True)
        for box, score, label, name in rows:
            yield Detection(box, float(score), int(label), name)

    def __repr__(self) -> str:
        """Name the picture, and count the objects by class."""
        counts = Counter(self.names)
        said = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing found"
        height, width = ("?", "?") if self.image is None else self.image.shape[:2]
        where = self.path or f"an array of {height} x {width} pixels"
        return f"<slimdet.Result of {where}: {said}>"

    def draw(self, *, scores: bool = True, line_width: int | None = None) -> Image.Image:
        """Return a copy of the picture with boxes and class names.

        Args:
            scores: write the score behind the class name.
            line_width: pixels; None grows with the picture.

        Raises:
            DataError: the picture's file is gone, or an argument is not valid.
        """
        a_truth_value(scores, "scores", DataError)
        if line_width is not None:
            line_width = a_whole_number(line_width, "line_width", 1, DataError)
        drawn = draw_boxes(
            self.pixels(),
            self._detections(),
            self.classes,
            show_scores=scores,
            line_width=line_width,
        )
        return Image.fromarray(drawn)

    def pixels(self) -> NDArray[np.uint8]:
        """Return the upright picture as (H, W, 3) uint8 RGB; a file is read again.

        Raises:
            DataError: the picture's file is gone.
        """
        if self.image is not None:
            return self.image
        assert self.path is not None  # a result has one of the two
        return open_photograph(self.path)

    def to_supervision(self) -> "supervision.Detections":
        """Return `supervision.Detections`, with the class names in `data["class_name"]`.

        Raises:
            MissingDependencyError: supervision is not installed.
        """
        with warnings.catch_warnings():  # its notice that OpenCV is missing
            warnings.simplefilter("ignore", UserWarning)
            sv = require("supervision", extra="supervision", purpose="Conversion to its detections")
        found: supervision.Detections = sv.Detections(
            xyxy=self.boxes.astype(np.float32).reshape(-1, 4),
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
        return found

    def to_coco(self, image_id: int) -> list[CocoResult]:
        """Return COCO results of the picture: xywh boxes, category ids of the training data.

        Args:
            image_id: id of the picture in the ground truth.

        Raises:
            DataError: the id is no whole number.
        """
        number = a_whole_number(image_id, "image_id", 0, DataError, 2**63 - 1)
        return coco_results(self._detections(), number, self.category_ids)

    def _detections(self) -> Detections:
        return Detections(self.boxes, self.scores, self.labels)
