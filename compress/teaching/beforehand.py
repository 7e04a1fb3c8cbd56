"""A teacher of boxes that it found on the pictures before the training."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.data.image_set import ImageSet
from compress.batch import Batch
from compress.data.config import Data
from compress.data.taught import Taught
from compress.detector import BEFOREHAND, DetectorSpec, Knowledge, Outputs, Rois
from compress.distillation.teacher import Teaching
from compress.teaching.boxes import TaughtBoxes


@dataclass(frozen=True)
class Found:
    """What a teacher found on the sets of pictures.

    Attributes:
        boxes: boxes found, by the key of the set: "train", "unlabeled", "val".
        cost_ms: what finding them cost: processor time on a CPU, else time; 0 where it is unknown.
        bytes: their size on disk.
    """

    boxes: Mapping[str, TaughtBoxes]
    cost_ms: float = 0.0
    bytes: int = 0

    @property
    def taught(self) -> Taught:
        """The boxes of the pictures that are trained on."""
        return Taught(self.boxes["train"], self.boxes.get("unlabeled"))


class BoxTeacher(Teaching):
    """A teacher that gave boxes beforehand, and nothing else.

    Attributes:
        ap: its AP on the validation pictures, 0..1; None where it has no boxes of them.
    """

    def __init__(
        self, family: str, student: DetectorSpec, taught: Taught, ap: float | None
    ) -> None:
        self.spec, self.taught, self.ap = box_spec(family, student), taught, ap

    def outputs(
        self, batch: Batch, wanted: frozenset[Knowledge], rois: Rois | None = None
    ) -> Outputs:
        """Return nothing: its boxes are in `Batch.taught`."""
        del batch, rois
        assert not wanted
        return Outputs(())


def box_spec(family: str, student: DetectorSpec) -> DetectorSpec:
    """Return what a teacher of boxes provides: boxes of the student's classes."""
    return DetectorSpec(
        family=family,
        num_classes=student.num_classes,
        channels=(),
        strides=(),
        backbone_channels=(),
        backbone_strides=(),
        provides=BEFOREHAND,
        classes=student.classes,
    )


def sets_of(data: Data) -> dict[str, ImageSet]:
    """Return the sets that a teacher finds boxes on: those trained on, and val to measure it."""
    found = {"train": data.train, "val": data.val}
    return found if data.unlabeled is None else {**found, "unlabeled": data.unlabeled}
