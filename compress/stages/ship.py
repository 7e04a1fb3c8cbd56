"""Export, measure and tell: from finished models to the rows of the report."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import COCO, SIZE
from benchmarks.accuracy.evaluate import compute_metrics, predict, save_predictions
from benchmarks.accuracy.metric import CocoResult, MetricValues
from benchmarks.data.image_set import coco_ground_truth, read_photograph
from benchmarks.timing.repeats import measure_repeatedly
from benchmarks.timing.throughput import sweep
from compress.data.config import Data
from compress.detector import Detector
from compress.parts.weights import load_weights
from compress.recipe import Recipe
from compress.stages.artifacts import REFUSED, Maker
from compress.stages.fit import torch_manifest
from compress.stages.rundir import once
from compress.stages.session import Session
from compress.stages.torch_engine import TorchEngine
from export.artifact.manifest import MADE_FOR_TENSORRT, Manifest, file_sha256, read_manifest
from export.atomic import write_json
from export.bundle import fill_bundle, pack
from export.engine import Engine, open_engine

Evaluated = dict[str, dict[str, MetricValues]]  # key of the row -> name of the metric -> values
NOT_MEASURED = {"latency_ms": None, "verdict": "not measured: made for TensorRT"}


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
    """Make every artifact that is not there yet; return the rows to measure, in report order.

    Raises:
        ExportError: an artifact does not see what torch sees.
    """
    rows: list[Row] = []
    for contestant in contestants:
        if contestant.timed_in_torch:
            rows.append(_torch_row(session, recipe, data, contestant))
        rooms = _artifacts(session, recipe, data, contestant)
        rows.extend(
            _onnx_row(recipe, contestant, room / "model.onnx")
            for room in rooms
            if not (room / REFUSED).exists()
        )
    return rows


def _artifacts(
    session: Session, recipe: Recipe, data: Data, contestant: Contestant
) -> Iterator[Path]:
    """The room of each precision that was asked for, fp32 first: the others are made of it."""
    name = contestant.name
    maker = Maker(session, recipe.export, data, contestant.detector, name, contestant.role)

    def room(precision: str, make: Callable[[Path], None]) -> Path:
        return once(session.home / "export" / f"{name}-{precision}", make)

    fp32 = room("fp32", maker.fp32)
    source = fp32 / "model.onnx"
    yield fp32
    if "fp16" in contestant.precisions:
        yield room("fp16", lambda out: maker.fp16(source, out))
    if "int8" in contestant.precisions:
        yield room("int8", lambda out: maker.int8(source, out, "cpu"))
    if "int8-trt" in contestant.precisions:
        yield room("int8-trt", lambda out: maker.int8(source, out, "tensorrt"))
    if "fp8" in contestant.precisions:
        yield room("fp8", lambda out: maker.fp8(source, out))


def _torch_row(session: Session, recipe: Recipe, data: Data, contestant: Contestant) -> Row:
    manifest = torch_manifest(contestant.detector, data, recipe.export, contestant.role)
    threads = recipe.benchmark.threads
    make = partial(TorchEngine, contestant.detector, manifest, session.torch_device(), threads)
    key = f"{contestant.name}-torch-fp32"
    return Row(key, contestant.role, contestant.name, manifest, contestant.weights, make)


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
        partial(open_engine, path, threads=threads),
    )


def evaluate_rows(session: Session, data: Data, rows: Sequence[Row]) -> Evaluated:
    """Compute the metrics of every row from its own artifact; metrics by name, by key of the row.

    Detections and metrics are kept in the run folder. A metric that `METRICS` did not have when a
    cut run wrote them is computed from the kept detections.
    """
    ground_truth = coco_ground_truth(data.val)
    write_json(ground_truth, session.home / "evaluation" / "ground_truth.json", indent=None)
    found: Evaluated = {}
    for row in rows:

        def fill(out: Path, row: Row = row) -> None:
            with row.open() as engine:
                results = predict(engine, data.val, batch=16, other_classes=True)
            save_predictions(results, out / "predictions.json")
            metrics = compute_metrics(_predictions(out), ground_truth, row.artifact)
            content = metrics[COCO].model_dump(mode="json")
            content["metrics"] = {name: m.model_dump(mode="json") for name, m in metrics.items()}
            write_json(content, out / "ap.json")

        room = once(session.home / "evaluation" / row.key, fill)
        known = _known_metrics(room / "ap.json")
        found[row.key] = compute_metrics(_predictions(room), ground_truth, row.artifact, known)
        ap = found[row.key][COCO].values["AP"]
        session.console.say(f"{row.key}: AP {'n/a' if ap is None else f'{100 * ap:.2f}'}")
    return found


def _predictions(room: Path) -> list[CocoResult]:
    found: list[CocoResult] = json.loads((room / "predictions.json").read_text(encoding="utf-8"))
    return found


def _known_metrics(file: Path) -> dict[str, MetricValues]:
    """Read what was computed before; runs of version 0.1 kept COCO's metrics alone."""
    content = json.loads(file.read_text(encoding="utf-8"))
    kept = content.get("metrics") or {COCO: content}
    return {name: MetricValues.model_validate(metric) for name, metric in kept.items()}


def time_rows(
    session: Session, recipe: Recipe, data: Data, rows: Sequence[Row]
) -> dict[str, dict[str, Any]]:
    """Latency of every row, measured side by side: key -> {latency_ms, verdict, blocks}.

    What is made for TensorRT has no latency here: a CPU's would be mistaken for its speed.
    """
    rows = [row for row in rows if row.manifest.precision not in MADE_FOR_TENSORRT]

    def fill(out: Path) -> None:
        threads = torch.get_num_threads()
        openers = {row.key: row.open for row in rows}
        timings = measure_repeatedly(openers, data.val, recipe.benchmark, session.console.say)
        with ExitStack() as stack:
            engines = {row.key: stack.enter_context(row.open()) for row in rows}
            swept = sweep(engines, data.val, recipe.benchmark)
        torch.set_num_threads(threads)
        found = {
            key: {
                "latency_ms": timing.to_dict(),
                "verdict": timing.verdict,
                "throughput": [entry.to_dict() for entry in swept[key]],
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


def bundle_student(session: Session, recipe: Recipe, data: Data, rows: Sequence[Row]) -> Path:
    """Pack the first seed's exported students for the device; return the archive.

    The picture that the bundle checks itself with is the validation picture with the most boxes.
    """
    artifacts = [r.artifact for r in rows if r.role == "student" and r.manifest.backend != "torch"]
    busiest = max(range(len(data.val)), key=lambda index: len(data.val.images[index].boxes))

    def fill(out: Path) -> None:
        golden = read_photograph(data.val, busiest)
        fill_bundle(out, artifacts, golden, name=recipe.name, threads=recipe.benchmark.threads)

    bundle = once(session.home / "bundle", fill)
    archive = bundle.with_name("bundle.tar.gz")
    return archive if archive.exists() else pack(bundle)


def report_rows(
    session: Session,
    rows: Sequence[Row],
    accuracy: Evaluated,
    latency: dict[str, dict[str, Any]],
    report: Path,
) -> list[dict[str, Any]]:
    """The `rows` of report.json; predictions are copied beside it, so that it can be checked."""
    (report / "predictions").mkdir(parents=True, exist_ok=True)
    evaluation = session.home / "evaluation"
    shutil.copyfile(evaluation / "ground_truth.json", report / "ground_truth.json")
    found = []
    for row in rows:
        timed = latency.get(row.key, NOT_MEASURED)
        metrics = accuracy[row.key]
        certificate = row.manifest.certificate
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
                "size_mb": metrics[SIZE].values[SIZE],
                "parameters": row.manifest.parameters,
                "ap": metrics[COCO].values,
                "per_class": metrics[COCO].per_class,
                "metrics": metrics,
                "latency_ms": timed["latency_ms"],
                "verdict": timed["verdict"],
                "predictions": predictions,
                "parity": row.manifest.parity,
                "quantization": row.manifest.quantization,
                "nms": row.manifest.nms.model_dump(mode="json"),
                "certificate": None if certificate is None else certificate.model_dump(mode="json"),
            }
        )
    return found
