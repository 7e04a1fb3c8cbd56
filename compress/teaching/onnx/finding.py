"""Find boxes on all pictures once, and keep them beside the runs."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import JsonValue

from benchmarks.data.image_set import ImageSet
from compress.console import Console
from compress.teaching.beforehand import Found
from compress.teaching.boxes import BoxLimits, TaughtBoxes
from compress.teaching.classes import ClassMatch
from compress.teaching.maps.store import cost_clock, identities, source_hash
from compress.teaching.onnx.detector import BoxDetector
from compress.teaching.onnx.running import taught_by
from export.atomic import read_checked_json, write_checked_json
from export.errors import DataError

BOXES, COST = "boxes.safetensors", "cost.json"


def find_boxes(
    detector: BoxDetector,
    key: Mapping[str, JsonValue],
    sets: Mapping[str, ImageSet],
    match: ClassMatch,
    limits: BoxLimits,
    *,
    home: Path,
    console: Console,
) -> Found:
    """Run a detector over the sets, or read what an earlier run of it found.

    Args:
        detector: the teacher.
        key: what its boxes depend on besides the pictures, the classes and the limits.
        sets: sets of pictures, by key.
        match: the teacher's classes matched with the student's.
        limits: which boxes of a picture are kept.
        home: folder of the boxes found by teachers, shared by all runs.
        console: output for progress.

    Raises:
        DataError: a picture cannot be read.
        ExportError: the detector does not run, or gives what is not finite.
        ToolkitError: the disk is full.
    """
    asked: dict[str, JsonValue] = {
        **key,
        "student": list(match.student),
        "labels": list(match.label_of),
        **asdict(limits),
    }
    folders = {
        name: home / source_hash({**asked, "pictures": identities(images)})[:16]
        for name, images in sets.items()
    }
    kept = {name: _read(folder, len(sets[name])) for name, folder in folders.items()}
    missing = [name for name, boxes in kept.items() if boxes is None]
    found = {name: boxes for name, boxes in kept.items() if boxes is not None}
    if missing:
        with detector.engine:
            for name in missing:
                began, images = cost_clock(detector.engine.device), sets[name]
                with console.progress(f"teacher, {name}", len(images)) as bar:
                    found[name] = taught_by(detector, images, match, limits, progress=bar)
                found[name].write(folders[name] / BOXES)
                cost = cost_clock(detector.engine.device) - began
                write_checked_json(cost, folders[name] / COST)
    costs = [read_checked_json(folders[name] / COST) for name in sets if name != "val"]
    size = sum((folders[name] / BOXES).stat().st_size for name in sets if name != "val")
    return Found(found, sum(cost for cost in costs if isinstance(cost, float)), size)


def _read(folder: Path, pictures: int) -> TaughtBoxes | None:
    """Return what an earlier run found; None where there is nothing, or it is damaged."""
    if not isinstance(read_checked_json(folder / COST), float):  # it is written last
        return None
    try:
        found = TaughtBoxes.read(folder / BOXES)
    except DataError:
        return None
    return found if len(found) == pictures else None
