"""ONNX graphs of YOLO beside Ultralytics' own: `python -m benchmarks.studies.ultralytics_latency`.

Both programs export the same random weights at one size, for a batch of 1. The graphs then run in
ONNX Runtime on one thread, in turns, on the same picture. Ours contains the decoding and the choice
of the best candidates; theirs as `YOLO.export` makes it (opset 18), and for YOLO26 also with its
one-to-one branch (`nms=False`). The ratio is that of the medians of processor time over all turns,
its interval from resampling the turns.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.studies.ultralytics_files import describe, random_yolo, started, write_both
from benchmarks.timing.environment import environment
from export.artifact.manifest import NmsSpec
from export.atomic import write_json

THEIRS = """
import json, os, sys
os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=sys.argv[3])
from ultralytics import YOLO
settings = json.loads(sys.argv[2])
YOLO(sys.argv[1]).export(format="onnx", opset=18, simplify=False, **settings)
"""


def ours(model: str, size: int, folder: Path) -> Path:
    """Write a random model's weights; return its ONNX file."""
    classes = {number: f"class {number}" for number in range(1, 81)}
    detector = random_yolo(model, len(classes), size, seed=0)
    nms = NmsSpec(iou=0.7, max_detections=300)
    weights = folder / f"{model}.safetensors"
    write_both(detector, describe(detector, model, classes, nms, dynamic=False), weights)
    out = folder / f"{model}-ours"
    started("-m", "slimdet", "build", str(weights), "--precision", "fp32", "--out", str(out))
    return out / "model.onnx"


def theirs(model: str, size: int, folder: Path, **settings: object) -> Path:
    """Export the same weights with Ultralytics' package; return its ONNX file."""
    given = json.dumps({"imgsz": size, **settings})
    started("-c", THEIRS, str(folder / f"{model}.pt"), given, str(folder))
    made = folder / f"{model}.onnx"
    return made.rename(folder / f"{model}-{'-'.join(settings) or 'default'}.onnx")


def in_turns(files: dict[str, Path], size: int, turns: int) -> dict[str, list[float]]:
    """Return processor milliseconds of one pass, a value per turn and graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = {
        name: onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for name, file in files.items()
    }
    picture = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    found: dict[str, list[float]] = {name: [] for name in files}
    for turn in range(turns + 2):
        for name, session in sessions.items():
            start = time.process_time()
            session.run(None, {session.get_inputs()[0].name: picture})
            if turn >= 2:  # the first passes allocate
                found[name].append(1000 * (time.process_time() - start))
    return found


def ratio(own: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """Return the ratio of the medians, own / other, and its 95 % interval over turns."""
    a, b = np.array(own), np.array(other)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(a), (2000, len(a)))
    drawn = np.median(a[picks], axis=1) / np.median(b[picks], axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "ratio": float(np.median(a) / np.median(b)),
        "ci95": [float(low), float(high)],
        "ratio_of_minima": float(a.min() / b.min()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, time and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.ultralytics_latency")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--models", nargs="+", default=["yolo11n", "yolo26n"])
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--turns", type=int, default=30)
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {}
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            files = {"ours": ours(model, options.size, here)}
            files["ultralytics"] = theirs(model, options.size, here)
            if model.startswith("yolo26"):
                files["ultralytics nms=False"] = theirs(model, options.size, here, nms=False)
            times = in_turns(files, options.size, options.turns)
        results[model] = {
            "ms": {name: float(np.median(values)) for name, values in times.items()},
            "against": {
                name: ratio(times["ours"], values)
                for name, values in times.items()
                if name != "ours"
            },
        }
        sys.stdout.write(f"{model}: {json.dumps(results[model])}\n")
        sys.stdout.flush()
    settings = {"size": options.size, "turns": options.turns, "threads": 1}
    write_json(
        {"settings": settings, "results": results, "environment": environment()}, options.out
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
