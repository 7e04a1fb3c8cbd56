"""Run an exported detector on pictures: `python -m export.predict MODEL.onnx IMAGE... --out DIR`.

Writes each picture with its boxes, and `predictions.json`, to DIR.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.calibration import picture_files
from export.detections import Detections, select_detections, to_photograph
from export.draw import draw_boxes
from export.engine import Engine, open_engine
from export.errors import DataError, ToolkitError
from export.images import open_photograph, photograph_size, read_canvas, to_input
from export.manifest import Manifest


def predict(engine: Engine, path: Path, score_threshold: float) -> Detections:
    """Return the detections on one photograph, in pixels of the upright picture.

    Raises:
        DataError: the file is missing, or no picture that can be read.
    """
    spec = engine.manifest.input
    width, height = photograph_size(path)
    canvas, place = read_canvas(path, spec.height, spec.width, spec.fill)
    candidates = engine.candidates(to_input([canvas], spec))
    found = select_detections(candidates, engine.manifest.nms, score_threshold)[0]
    return to_photograph(found, place, width, height)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except ToolkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    files = [file for given in options.images for file in _pictures(given)]
    out: Path = options.out
    _make_folder(out)
    records, broken = [], []
    with open_engine(options.model, options.threads, options.device) as engine:
        manifest = engine.manifest
        threshold = manifest.score_threshold if options.score is None else options.score
        names = _output_names(files)
        for file, name in zip(files, names, strict=True):
            try:
                found = predict(engine, file, threshold)
                pixels = open_photograph(file)
            except DataError as error:
                broken.append(error)
                print(f"error: {error}", file=sys.stderr)
                continue
            _write_picture(draw_boxes(pixels, found, manifest.classes), out / name)
            records.append(_record(file, name, pixels, found, manifest))
            if not options.json:
                print(f"{file}: {_summary(found, manifest.classes)} -> {out / name}")
    result = {
        "model": str(options.model),
        "sha256": manifest.sha256,
        "score_threshold": threshold,
        "images": records,
        "broken": [str(error) for error in broken],
    }
    _write_json(result, out / "predictions.json")
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{len(records)} pictures, {len(broken)} broken; see {out / 'predictions.json'}")
    return DataError.exit_code if broken else 0


def _pictures(given: Path) -> list[Path]:
    return picture_files(given) if given.is_dir() else [given]


def _output_names(files: Sequence[Path]) -> list[str]:
    """Return one file name per picture, all different also without regard to case."""
    names: list[str] = []
    taken: set[str] = set()
    for file in files:
        name, number = f"{file.stem}.jpg", 1
        while name.lower() in taken:
            number += 1
            name = f"{file.stem}_{number}.jpg"
        taken.add(name.lower())
        names.append(name)
    return names


def _record(
    file: Path, name: str, pixels: NDArray[np.uint8], found: Detections, manifest: Manifest
) -> dict[str, Any]:
    return {
        "file": str(file),
        "drawn": name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "detections": [
            {
                "class": manifest.classes[label],
                "category_id": manifest.category_ids[label],
                "score": round(float(score), 5),
                "box": [round(float(value), 2) for value in box],  # xyxy, photograph pixels
            }
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
        ],
    }


def _summary(found: Detections, classes: Sequence[str]) -> str:
    labels, counts = np.unique(found.labels, return_counts=True)
    return (
        ", ".join(f"{count} {classes[label]}" for label, count in zip(labels, counts, strict=True))
        or "nothing found"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be made ({error.strerror}); choose another --out"
        ) from None


def _write_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    try:
        Image.fromarray(pixels).save(path, quality=92)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from None


def _write_json(result: dict[str, Any], path: Path) -> None:
    try:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from None


def _score(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.predict",
        description="Run an exported detector on pictures; draw and list what it finds.",
        epilog="Exit codes: 0 all done, 3 a picture is broken or missing, 4 a package is "
        "missing, 6 the model cannot be used.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="model.json lies beside it")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="files or folders")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument("--score", type=_score, help="lowest score to keep (default: the model's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=_positive, help="of the CPU (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
