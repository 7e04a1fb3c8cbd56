"""An exported detector on the runtimes of the GPU, where they are installed."""

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from benchmarks.data.image_set import read_canvas
from benchmarks.studies.gpu_acceptance.recipes import drawn, opened
from benchmarks.studies.gpu_acceptance.record import Deadline, Found, Goal, SkippedError
from compress.pipeline import train_models
from compress.stages.artifacts import write_fp32
from compress.stages.model_file import load_detector
from export.backends.onnxruntime.providers import why_unusable
from export.build import build, command_line
from export.checks.parity import compare_detections
from export.detections import Detections
from export.engine import detect_on_canvases, open_engine
from export.errors import ToolkitError
from export.optional import require
from export.pictures.images import to_input
from export.precision.fp16 import cast_half

CALLS = 50
PICTURES = 8
LOWEST, COUNTED = 0.01, 0.05  # scores
Canvases = Sequence[NDArray[np.uint8]]


def runtimes(
    deadline: Deadline, *, device: str, size: int, batch: int, steps: int, folder: Path
) -> Found:
    """Train, export and run a detector on ONNX Runtime with CUDA and as TensorRT engines.

    The goals are the numbers of boxes that the CPU finds and they do not, or the reverse.
    """
    ways: dict[str, Callable[[Path, Canvases, Path], tuple[Path, str]]] = {}
    if device.startswith("cuda"):
        runtime = require("onnxruntime", extra="cpu", purpose="running exported models")
        if why_unusable(runtime, "cuda") is None:
            ways["onnxruntime cuda fp32"] = lambda graph, *_: (graph, "cuda")
        if importlib.util.find_spec("tensorrt") is not None:
            ways["tensorrt fp32"] = _tensorrt_fp32
            ways["tensorrt fp16"] = _tensorrt_fp16
    elif device == "cpu":
        ways["onnxruntime cpu fp32"] = lambda graph, *_: (graph, "cpu")
    if not ways:
        raise SkippedError("neither onnxruntime-gpu nor tensorrt works here")
    settings = drawn("runtimes", "retinanet", "auto", size=size, steps=steps, batch=batch)
    for key in ("teacher", "distill", "baseline"):
        del settings[key]
    run = opened(settings, folder, device)
    (home,) = train_models(run).values()
    model = load_detector(home / "model.safetensors")
    canvases = [read_canvas(run.data.val, index, size, size)[0] for index in range(PICTURES)]
    graph = write_fp32(
        model.detector,
        model.metadata.manifest,
        run.recipe.export,
        canvases,
        canvases[0],
        folder / "graph",
    )
    reference, found, goals = _run(graph, "cpu", canvases)[0], dict[str, JsonValue](), list[Goal]()
    for name, make in ways.items():
        if not deadline.left:
            found[name] = "no time was left"
            continue
        try:
            artifact, where = make(graph, canvases, folder / name.replace(" ", "-"))
            boxes, ms = _run(artifact, where, canvases)
        except ToolkitError as error:
            found[name] = f"failed: {error}"
            goals.append(Goal(name=f"{name}: boxes that differ", value=None, limit=0))
            continue
        parity = compare_detections(reference, boxes, COUNTED)
        found[name] = {
            "matched": parity.matched,
            "missing": parity.missing,
            "extra": parity.extra,
            "scores_apart": parity.max_score_difference,
            "boxes_apart_px": parity.max_box_difference_px,
            "call_ms": ms,
        }
        differ = float(parity.missing + parity.extra)
        goals.append(Goal(name=f"{name}: boxes that differ", value=differ, limit=0))
    return found, goals


def _run(path: Path, device: str, canvases: Canvases) -> tuple[list[Detections], float]:
    """Return the detections on each canvas, and the median time of a call with one picture."""
    times = []
    with open_engine(path, device=device) as engine:
        boxes = [detect_on_canvases(engine, [one], LOWEST)[0] for one in canvases]
        images = to_input([canvases[0]], engine.manifest.input)
        for _ in range(CALLS):
            start = time.perf_counter()
            engine.candidates(images)
            times.append(1000 * (time.perf_counter() - start))
    return boxes, round(statistics.median(times), 3)


def _tensorrt_fp32(graph: Path, _: Canvases, out: Path) -> tuple[Path, str]:
    return _engine(graph, "fp32", out), "cuda"


def _tensorrt_fp16(graph: Path, canvases: Canvases, out: Path) -> tuple[Path, str]:
    half = cast_half(graph, canvases, out / "half")
    return _engine(half, "fp16", out / "engine"), "cuda"


def _engine(graph: Path, precision: str, out: Path) -> Path:
    options = [str(graph), "--backend", "tensorrt", "--precision", precision, "--out", str(out)]
    return build(command_line("gpu_acceptance").parse_args(options))
