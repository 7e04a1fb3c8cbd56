"""Detections on photographs and videos, as `predictions.json` and as pictures with their boxes."""

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.arguments import say
from export.artifact.int8_range import saturates_here, saturation
from export.artifact.manifest import Manifest
from export.artifact.preprocessing import UNSTATED
from export.atomic import write_bytes, write_text
from export.detections import Detections
from export.draw import draw_boxes
from export.engine import Engine, detect, detect_placed, place_file
from export.errors import DataError, MissingDependencyError, ToolkitError, counted
from export.pictures.calibration import picture_files
from export.pictures.files import files_below, is_file, is_picture_name
from export.pictures.images import open_photograph, photograph_size
from export.pictures.video import MARK, SUFFIXES, VideoWriter, open_video

RECORD = "predictions.json"


def predict(engine: Engine, path: Path, score_threshold: float) -> Detections:
    """Return the detections on one photograph, in pixels of the upright picture.

    Raises:
        DataError: the file is missing, or no picture that can be read.
    """
    (found,) = detect_placed(engine, [place_file(path, engine.manifest.input)], score_threshold)
    return found


def require_free_outputs(options: argparse.Namespace) -> None:
    """Check, before a model is loaded, that no file but results of earlier calls is overwritten.

    Args:
        options: values of `export.predict.command_line`.

    Raises:
        DataError: a folder holds no picture and no video.
        ToolkitError: a file is in the way; names it.
    """
    files, _ = _files_in(options.images)
    names = _output_names(files) if options.draw else []
    out: Path = options.out
    there = [out / name for name in (RECORD, *names) if os.path.lexists(out / name)]
    inputs = {_identity(file) for file in files if file.exists()} if there else set()
    drawn = _drawn_before(out / RECORD)
    for target in there:
        if target.exists() and _identity(target) in inputs:
            raise ToolkitError(
                f"{target}: is one of the pictures to look at, and its drawn copy would replace "
                "it; choose another folder with --out"
            )
        if not (target.name in drawn or _is_marked(target)):
            raise ToolkitError(
                f"{target}: is there, was not written by predict and would be replaced; move it "
                "away or choose another folder with --out"
            )


def _identity(file: Path) -> tuple[int, int]:
    """Return what two names of one file share, also where the disk ignores case."""
    found = file.stat()
    return found.st_dev, found.st_ino


def _drawn_before(record: Path) -> set[str]:
    """Return the files that `predictions.json` of an earlier call lists, and its own name."""
    try:
        content = json.loads(record.read_bytes())
        if {"model", "sha256", "score_threshold"} <= content.keys():
            drawn = [image["drawn"] for image in content["images"]]
            return {record.name, *(name for name in drawn if name is not None)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return set()


def _is_marked(file: Path) -> bool:
    """Whether a picture or video says that it was drawn here."""
    if file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as stream:
        head = stream.read(4096)
        stream.seek(max(file.stat().st_size - len(MARK), 0))
        return MARK in head or stream.read() == MARK


def write_predictions(options: argparse.Namespace, engine: Engine, model: Path) -> int:
    """Detect on the pictures and videos of `options`; return the exit code.

    Args:
        options: values of `export.predict.command_line`.
        engine: open.
        model: its file, for the record.
    """
    files, left_out = _files_in(options.images)
    out: Path = options.out
    records: list[dict[str, object]] = []
    broken: list[ToolkitError] = []
    manifest = engine.manifest
    if manifest.input.preprocessing is None:
        say(f"note: {model}: {UNSTATED}", sys.stderr)
    caution = saturation(manifest.model_dump(), engine.device, saturates_here())
    if caution is not None:
        say(f"warning: {model}: {caution}", sys.stderr)
    threshold = manifest.score_threshold if options.threshold is None else options.threshold
    for file, name in zip(files, _output_names(files), strict=True):
        drawn = out / name if options.draw else None
        try:
            if file.suffix.lower() in SUFFIXES:
                record, said = _do_video(engine, file, drawn, threshold)
            else:
                record, said = _do_picture(engine, file, drawn, threshold)
        except (DataError, MissingDependencyError) as error:
            broken.append(error)
            say(f"error: {error}", sys.stderr)
            continue
        records.append(record)
        if not options.json:
            say(f"{file}: {said}" + (f" -> {drawn}" if drawn else ""))
    result = {
        "model": str(model),
        "sha256": manifest.sha256,
        "score_threshold": threshold,
        "images": records,
        "broken": [str(error) for error in broken],
        "left_out": [str(file) for file in left_out],
    }
    write_text(json.dumps(result, indent=1) + "\n", out / RECORD)
    if options.json:
        print(json.dumps(result))
    else:
        others = f", {counted(len(left_out), 'other file')} left out" if left_out else ""
        say(
            f"{len(records)} done with {model}, {len(broken)} broken{others}; see "
            f"{out / 'predictions.json'}"
        )
    return broken[0].exit_code if broken else 0


def _files_in(named: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files that are named, with the pictures and videos of folders; and the others.

    Hidden files count as neither.

    Raises:
        DataError: a folder holds no picture and no video.
    """
    files: list[Path] = []
    left_out: list[Path] = []
    for given in named:
        if not given.is_dir():
            files.append(given)
            continue
        seen = [path for path in files_below(given) if not path.name.startswith(".")]
        videos = sorted(path for path in seen if path.suffix.lower() in SUFFIXES)
        pictures = sorted(path for path in seen if is_picture_name(path) and is_file(path))
        files += [*pictures, *videos] if pictures or videos else picture_files(given)
        left_out += sorted({*seen} - {*pictures, *videos})
    return files, left_out


def _output_names(files: Sequence[Path]) -> list[str]:
    """Return one file name per picture, all different also without regard to case."""
    names: list[str] = []
    taken: set[str] = set()
    for file in files:
        suffix = ".mp4" if file.suffix.lower() in SUFFIXES else ".jpg"
        name, number = f"{file.stem}{suffix}", 1
        while name.lower() in taken:
            number += 1
            name = f"{file.stem}_{number}{suffix}"
        taken.add(name.lower())
        names.append(name)
    return names


def _do_picture(
    engine: Engine, file: Path, drawn: Path | None, threshold: float
) -> tuple[dict[str, object], str]:
    """Return the record of a photograph, and what to say of it."""
    found = predict(engine, file, threshold)
    manifest = engine.manifest
    if drawn is None:
        width, height = photograph_size(file)
    else:
        pixels = open_photograph(file, manifest.input.bit_depth)
        height, width = pixels.shape[:2]
        _write_picture(draw_boxes(pixels, found, manifest.classes), drawn)
    record: dict[str, object] = {
        "file": str(file),
        "drawn": drawn.name if drawn else None,
        "width": width,
        "height": height,
        "detections": _listed(found, manifest),
    }
    return record, _summary(found, manifest.classes, threshold)


def _do_video(
    engine: Engine, file: Path, drawn: Path | None, threshold: float
) -> tuple[dict[str, object], str]:
    """Return the record of a video with detections per frame, and what to say of it."""
    manifest = engine.manifest
    frames = []
    size = (0, 0)
    with open_video(file) as video:
        with _writing(drawn, video.frames_per_second) as writer:
            for pixels in video.frames():
                (found,) = detect(engine, [pixels], threshold)
                frames.append(_listed(found, manifest))
                size = (pixels.shape[1], pixels.shape[0])
                if writer is not None:
                    writer.add(draw_boxes(pixels, found, manifest.classes))
        rate = video.frames_per_second
    if not frames:
        raise DataError(f"{file}: a video without a frame that can be read; convert or remove it")
    record: dict[str, object] = {
        "file": str(file),
        "drawn": drawn.name if drawn else None,
        "width": size[0],
        "height": size[1],
        "frames_per_second": rate,
        "frames": frames,
    }
    boxes = counted(sum(map(len, frames)), "box", "boxes")
    return record, f"{boxes} in {counted(len(frames), 'frame')}"


@contextmanager
def _writing(drawn: Path | None, rate: float) -> Iterator[VideoWriter | None]:
    if drawn is None:
        yield None
    else:
        with VideoWriter(drawn, rate) as writer:
            yield writer


def _listed(found: Detections, manifest: Manifest) -> list[dict[str, object]]:
    return [
        {
            "class": manifest.classes[label],
            "category_id": manifest.category_ids[label],
            "score": round(float(score), 5),
            "box": [round(float(value), 2) for value in box],  # xyxy, photograph pixels
        }
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
    ]


def _summary(found: Detections, classes: Sequence[str], threshold: float) -> str:
    labels, counts = np.unique(found.labels, return_counts=True)
    return (
        ", ".join(f"{count} {classes[label]}" for label, count in zip(labels, counts, strict=True))
        or f"nothing with a score above {threshold:g} (--threshold)"
    )


def _write_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="JPEG", quality=92, comment=MARK)
    write_bytes(content.getvalue(), path)
