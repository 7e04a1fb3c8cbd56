"""What a teacher finds on the pictures before the training: run once, kept beside the runs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from benchmarks.data.division import picture_hashes
from benchmarks.data.image_set import ImageSet
from compress.batch import Batch, ScoredBoxes
from compress.console import Console
from compress.data.config import Data
from compress.data.taught import Taught
from compress.detector import BEFOREHAND, DetectorSpec, Knowledge, Outputs, Rois
from compress.distillation.teacher import Teaching
from compress.teaching.boxes import TaughtBoxes
from compress.teaching.classes import ClassMatch
from compress.teaching.maps.store import source_hash
from compress.teaching.onnx_detector import OnnxDetector
from compress.teaching.running import scored_boxes
from export.atomic import read_checked_json, write_checked_json
from export.errors import DataError

BOXES, COST = "boxes.safetensors", "cost.json"


@dataclass(frozen=True)
class Found:
    """What a teacher found on the sets of pictures.

    Attributes:
        boxes: by the key of the set: "train", "unlabeled", "val".
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
    """A teacher that gave boxes beforehand, and nothing else."""

    def __init__(self, family: str, student: DetectorSpec, taught: Taught) -> None:
        self.spec, self.taught = box_spec(family, student), taught

    def outputs(
        self, batch: Batch, wanted: frozenset[Knowledge], rois: Rois | None = None
    ) -> Outputs:
        """Return nothing: all it knows is in `Batch.taught`."""
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
    """Return the sets that a teacher is asked of: what is trained on, and val to measure it."""
    found = {"train": data.train, "val": data.val}
    return found if data.unlabeled is None else {**found, "unlabeled": data.unlabeled}


def find_boxes(
    detector: OnnxDetector,
    key: Mapping[str, JsonValue],
    sets: Mapping[str, ImageSet],
    match: ClassMatch,
    *,
    score_threshold: float,
    max_boxes: int,
    home: Path,
    console: Console,
) -> Found:
    """Run a detector over the sets, or read what an earlier run of it found.

    Args:
        detector: the teacher.
        key: what its boxes depend on besides the pictures, the classes and the two limits.
        sets: of pictures, by key.
        match: of its classes with the student's.
        score_threshold: boxes of a lower score are left out.
        max_boxes: of a picture, the best ones.
        home: folder of all that teachers found, for every run.
        console: for progress.

    Raises:
        DataError: a picture cannot be read.
        ExportError: the detector does not run, or gives what is not finite.
        ToolkitError: the disk is full.
    """
    asked: dict[str, JsonValue] = {
        **key,
        "student": list(match.student),
        "labels": list(match.label_of),
        "score_threshold": score_threshold,
        "max_boxes": max_boxes,
    }
    folders = {
        name: home / source_hash({**asked, "pictures": identities(images)})[:16]
        for name, images in sets.items()
    }
    kept = {name: _read(folder, len(sets[name])) for name, folder in folders.items()}
    missing = [name for name, boxes in kept.items() if boxes is None]
    found = {name: boxes for name, boxes in kept.items() if boxes is not None}
    if missing:
        source = f"{detector.format} {detector.engine.manifest.model}"
        with detector.engine:
            for name in missing:
                began, said = _clock(detector), list[ScoredBoxes]()
                images = sets[name]
                with console.progress(f"teacher, {name}", len(images)) as bar:
                    for done, (_, boxes) in enumerate(
                        scored_boxes(
                            detector,
                            images,
                            match,
                            range(len(images)),
                            score_threshold=score_threshold,
                            max_boxes=max_boxes,
                        ),
                        1,
                    ):
                        said.append(boxes)
                        bar.update(done)
                found[name] = TaughtBoxes.of_pictures(said, match.student, source)
                found[name].write(folders[name] / BOXES)
                write_checked_json(_clock(detector) - began, folders[name] / COST)
    costs = [read_checked_json(folders[name] / COST) for name in sets if name != "val"]
    size = sum((folders[name] / BOXES).stat().st_size for name in sets if name != "val")
    return Found(found, sum(cost for cost in costs if isinstance(cost, float)), size)


def identities(image_set: ImageSet) -> list[JsonValue]:
    """Return what tells the pictures of a set from others: hashes of files, names of drawn ones.

    Raises:
        DataError: files that cannot be read.
    """
    if image_set.draw is not None:
        return [image.file_name for image in image_set.images]
    return list(picture_hashes(image_set))


def _read(folder: Path, pictures: int) -> TaughtBoxes | None:
    """Return what an earlier run found; None where there is nothing, or it is damaged."""
    if not isinstance(read_checked_json(folder / COST), float):  # it is written last
        return None
    try:
        found = TaughtBoxes.read(folder / BOXES)
    except DataError:
        return None
    return found if len(found) == pictures else None


def _clock(detector: OnnxDetector) -> float:
    """Return milliseconds: processor time on a CPU, else time."""
    on_cpu = detector.engine.device == "cpu"
    return 1000 * (time.process_time() if on_cpu else time.perf_counter())

