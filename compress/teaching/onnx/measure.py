"""AP of ONNX files of any package as teachers: `python -m compress.teaching.onnx.measure`.

Each file is opened as `teacher: {type: onnx, ...}` opens it, run over a COCO set and scored.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data.image_set import ImageSet, read_coco
from benchmarks.timing.environment import environment
from compress.teaching.accuracy import accuracy_of
from compress.teaching.classes import in_section, match_classes
from compress.teaching.config import OnnxTeacher
from compress.teaching.onnx.detector import open_detector
from compress.teaching.onnx.running import taught_by
from export.atomic import write_json
from export.errors import ToolkitError


def measure(settings: dict[str, Any], images: ImageSet) -> dict[str, Any]:
    """Return what was found in a file, and the AP of its boxes."""
    config = OnnxTeacher.model_validate_json(json.dumps({"type": "onnx", **settings}))
    detector = open_detector(config, "cpu", in_section("teacher"))
    match = match_classes(images.classes, detector.classes, config.class_map, in_section("teacher"))
    with detector.engine:
        taught = taught_by(detector, images, match, config.limits)
    values = accuracy_of(taught, images).values
    return {
        "file": config.model.name,
        "settings": {key: value for key, value in settings.items() if key != "model"},
        "format": detector.format,
        "found": detector.lines(),
        "classes": match.lines(),
        "pictures": len(images),
        "boxes": len(taught.scores),
        "AP": values["AP"],
        "AP50": values["AP50"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the files and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="COCO JSON with its pictures")
    parser.add_argument("--teacher", action="append", required=True, help="settings as JSON")
    parser.add_argument("--limit", type=int, help="number of pictures")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        images = read_coco(options.data)
        if options.limit is not None:
            images = images.subset(range(min(options.limit, len(images))))
        rows = []
        for given in options.teacher:
            row = measure(json.loads(given), images)
            sys.stdout.write(f"{row['file']}: {row['format']}, AP {row['AP']:.4f}\n")
            rows.append(row)
    except ToolkitError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    content = {"data": options.data.parent.name, "machine": environment(), "teachers": rows}
    write_json(content, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
