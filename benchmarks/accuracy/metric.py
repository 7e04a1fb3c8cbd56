"""The interface of a metric: detections, ground truth and artifact in, named values out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import Field
from typing_extensions import TypedDict

from benchmarks.data.image_set import GroundTruth
from benchmarks.record import Record


class CocoResult(TypedDict):
    """One detection in COCO's results format; `bbox` is xywh in pixels of the photograph."""

    image_id: int
    category_id: int
    bbox: list[float]
    score: float


class MetricValues(Record):
    """Values of one metric; None where there is nothing to measure.

    Attributes:
        values: value by name, in the order in which a table shows them.
        per_class: one value by class name; empty for a metric that has none.
    """

    values: dict[str, float | None]
    per_class: dict[str, float | None] = Field(default_factory=dict)


class Metric(Protocol):
    """A function of one artifact's detections on one labelled set; it must not change its inputs.

    It runs in the process that evaluates, after all predictions, once per row of the report.
    """

    def __call__(
        self, results: Sequence[CocoResult], ground_truth: GroundTruth, artifact: Path, /
    ) -> MetricValues:
        """Return the values for the detections `results` that the file `artifact` made."""
