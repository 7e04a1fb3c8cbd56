"""Export, measure and tell: from finished models to the rows of the report."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.coco_images import ImageSet, coco_ground_truth, read_canvas
from benchmarks.evaluate import predict, save_predictions
from benchmarks.latency import measure
from benchmarks.metrics.coco_map import coco_map
from compress.data import Data
from compress.detector import Detector
from compress.fit import torch_manifest
from compress.recipe import ExportConfig, Recipe
from compress.rundir import once
from compress.session import Session
from compress.torch_engine import TorchEngine
from compress.weights import load_weights
from export.atomic import write_json
from export.detections import Detections, select_detections
from export.engine import Engine, open_engine
from export.images import to_tensor
from export.manifest import Manifest, file_sha256, read_manifest, write_manifest
from export.parity import compare_detections
from export.quantize import quantize_cpu_int8
from export.to_onnx import export_onnx


@dataclass(frozen=True)
class Contestant:
    """A finished model that the report will speak of.

    Attributes:
        role: teacher, baseline, baseline_equal_time or student.
        name: of its folder in `models/`.
        detector: with its final weights.
        weights: the file they lie in.
        precisions: the artifacts to make of it.
        timed_in_torch: whether torch gets a row of its own.
    """

    role: str
    name: str
    detector: Detector
    weights: Path
    precisions: Sequence[str]
    timed_in_torch: bool


@dataclass(frozen=True)
class Row:
    """One thing to measure: a model in one backend and precision."""

    key: str
    role: str
    name: str
    manifest: Manifest
    artifact: Path
    open: Callable[[], Engine]


def load_contestant(
    role: str, room: Path, detector: Detector, precisions: Sequence[str], *, in_torch: bool
) -> Contestant:
    """Put the weights of a finished room into `detector`."""
    weights = room / "model.safetensors"
    load_weights(detector, weights, strict=True, what=role)
    return Contestant(role, room.name, detector.eval(), weights, precisions, in_torch)


def export_all(
    session: Session, recipe: Recipe, data: Data, contestants: Sequence[Contestant]
) -> list[Row]:
    """Make every artifact that is not there yet; return the rows to measure, in report order."""
    rows: list[Row] = []
    for contestant in contestants:
        if contestant.timed_in_torch:
            rows.append(_torch_row(session, recipe, data, contestant))
        folder = session.home / "export"
        fp32 = once(
            folder / f"{contestant.name}-fp32",
            lambda out, c=contestant: _export_fp32(session, recipe.export, data, c, out),  # type: ignore[misc]
        )
        rows.append(_onnx_row(recipe, contestant, fp32 / "model.onnx"))
        if "int8" in contestant.precisions:
            int8 = once(
                folder / f"{contestant.name}-int8",
                lambda out, source=fp32: _quantize(session, recipe.export, data, source, out),  # type: ignore[misc]
            )
            rows.append(_onnx_row(recipe, contestant, int8 / "model.onnx"))
    return rows


def _torch_row(session: Session, recipe: Recipe, data: Data, contestant: Contestant) -> Row:
    manifest = torch_manifest(contestant.detector, data, recipe.export, contestant.role)
    threads = recipe.benchmark.threads

    def open_torch() -> Engine:
        return TorchEngine(contestant.detector, manifest, session.torch_device(), threads)

    key = f"{contestant.name}-torch-fp32"
    return Row(key, contestant.role, contestant.name, manifest, contestant.weights, open_torch)


def _onnx_row(recipe: Recipe, contestant: Contestant, path: Path) -> Row:
    manifest = read_manifest(path.with_suffix(".json"))
    threads = recipe.benchmark.threads
    key = f"{contestant.name}-{manifest.backend}-{manifest.precision}"
    return Row(
        key,
        contestant.role,
        contestant.name,
        manifest,
        path,
        lambda: open_engine(path, threads=threads),
    )


def _export_fp32(
    session: Session, export: ExportConfig, data: Data, contestant: Contestant, out: Path
) -> None:
    manifest = torch_manifest(contestant.detector, data, export, contestant.role)
    manifest = manifest.model_copy(
        update={
            "backend": "onnxruntime",
            "input": manifest.input.model_copy(update={"dynamic_batch": export.dynamic_batch}),
        }
    )
    count = min(export.parity_images, len(data.val))
    sample = np.concatenate([_tensor(data, data.val, index) for index in range(count)])
    detector = contestant.detector.cpu()
    translations = getattr(detector, "onnx_translations", None)
    path = export_onnx(
        detector, manifest, out, sample[:1], opset=export.opset, translations=translations
    )
    with TorchEngine(detector, manifest) as torch_engine, open_engine(path) as onnx_engine:
        reference = _detect(torch_engine, sample)
        found = _detect(onnx_engine, sample)
    parity = compare_detections(reference, found)
    if not parity.ok():
        session.console.warn(
            f"{contestant.name}: the ONNX file does not agree with torch on {count} pictures: "
            f"{parity.to_dict()}; its AP below is its own"
        )
    sidecar = path.with_suffix(".json")
    exported = read_manifest(sidecar)
    write_manifest(exported.model_copy(update={"parity": parity.to_dict()}), sidecar)
    session.console.say(
        f"{contestant.name}: exported, parity with torch on {count} pictures: {parity.matched} "
        f"matched, {parity.missing} missing, {parity.extra} extra, boxes within "
        f"{parity.max_box_difference_px:.3g} px"
    )


def _detect(engine: Engine, sample: NDArray[np.float32]) -> list[Detections]:
    found: list[Detections] = []
    for image in sample:
        candidates = engine.candidates(image[None])
        found += select_detections(candidates, engine.manifest.nms, 0.05)
    return found


def _tensor(data: Data, images: ImageSet, index: int) -> NDArray[np.float32]:
    canvas, _ = read_canvas(images, index, data.input_height, data.input_width)
    return to_tensor([canvas])


def _quantize(session: Session, export: ExportConfig, data: Data, source: Path, out: Path) -> None:
    calibration = export.calibration
    order = np.random.default_rng(calibration.seed).permutation(len(data.train))
    canvases = [
        read_canvas(data.train, int(index), data.input_height, data.input_width)[0]
        for index in order[: calibration.images]
    ]
    session.console.say(f"INT8 for the CPU: calibrating on {len(canvases)} training pictures")
    quantize_cpu_int8(
        source / "model.onnx", canvases, out, method=calibration.method, seed=calibration.seed
    )


def evaluate_rows(session: Session, data: Data, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """COCO metrics of every row, from its own artifact: key -> {values, per_class}."""
    ground_truth = coco_ground_truth(data.val)
    write_json(ground_truth, session.home / "evaluation" / "ground_truth.json", indent=None)
    found = {}
    for row in rows:

        def fill(out: Path, row: Row = row) -> None:
            with row.open() as engine:
                results = predict(engine, data.val, batch=16, other_classes=True)
            save_predictions(results, out / "predictions.json")
            saved = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
            metrics = coco_map(saved, ground_truth)
            write_json({"values": metrics.values, "per_class": metrics.per_class}, out / "ap.json")

        room = once(session.home / "evaluation" / row.key, fill)
        found[row.key] = json.loads((room / "ap.json").read_text(encoding="utf-8"))
        ap = found[row.key]["values"]["AP"]
        session.console.say(f"{row.key}: AP {'n/a' if ap is None else f'{100 * ap:.2f}'}")
    return found


def time_rows(
    session: Session, recipe: Recipe, data: Data, rows: Sequence[Row]
) -> dict[str, dict[str, Any]]:
    """Latency of every row, measured side by side: key -> {latency_ms, verdict, blocks}."""

    def fill(out: Path) -> None:
        threads = torch.get_num_threads()
        with ExitStack() as stack:
            engines = {row.key: stack.enter_context(row.open()) for row in rows}
            timings = measure(engines, data.val, recipe.benchmark)
        torch.set_num_threads(threads)
        found = {
            key: {
                "latency_ms": timing.to_dict(),
                "verdict": timing.verdict,
                "engine_blocks": timing.engine_blocks,
                "end_to_end_blocks": timing.end_to_end_blocks,
            }
            for key, timing in timings.items()
        }
        write_json(found, out / "latency.json", indent=None)

    session.console.say(f"latency: {len(rows)} rows in interleaved blocks")
    room = once(session.home / "latency", fill)
    found: dict[str, dict[str, Any]] = json.loads(
        (room / "latency.json").read_text(encoding="utf-8")
    )
    return found


def report_rows(
    session: Session,
    rows: Sequence[Row],
    accuracy: dict[str, dict[str, Any]],
    latency: dict[str, dict[str, Any]],
    report: Path,
) -> list[dict[str, Any]]:
    """The `rows` of report.json; predictions are copied beside it, so that it can be checked."""
    (report / "predictions").mkdir(parents=True, exist_ok=True)
    evaluation = session.home / "evaluation"
    shutil.copyfile(evaluation / "ground_truth.json", report / "ground_truth.json")
    found = []
    for row in rows:
        predictions = f"predictions/{row.key}.json"
        shutil.copyfile(evaluation / row.key / "predictions.json", report / predictions)
        found.append(
            {
                "model": row.role,
                "name": row.name,
                "key": row.key,
                "backend": row.manifest.backend,
                "precision": row.manifest.precision,
                "artifact": f"../{row.artifact.relative_to(session.home).as_posix()}",
                "sha256": file_sha256(row.artifact),
                "size_mb": row.artifact.stat().st_size / 1e6,
                "parameters": row.manifest.parameters,
                "ap": accuracy[row.key]["values"],
                "per_class": accuracy[row.key]["per_class"],
                "latency_ms": latency[row.key]["latency_ms"],
                "verdict": latency[row.key]["verdict"],
                "predictions": predictions,
                "parity": row.manifest.parity,
                "quantization": row.manifest.quantization,
            }
        )
    return found
