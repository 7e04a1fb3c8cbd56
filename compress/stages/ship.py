"""Export finished models, evaluate and time them, and build the rows of the report."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pydantic import TypeAdapter

from benchmarks.accuracy import COCO
from benchmarks.accuracy.evaluate import compute_metrics, predict, save_predictions
from benchmarks.accuracy.metric import CocoResult, MetricValues
from benchmarks.data.image_set import coco_ground_truth, read_photograph
from benchmarks.report.content import report_row
from benchmarks.report.schema import ReportRow
from benchmarks.timing.records import Timing
from benchmarks.timing.repeats import measure_repeatedly
from benchmarks.timing.throughput import sweep
from compress.detector import Detector
from compress.parts.weights import load_weights
from compress.stages.artifacts import REFUSED, Maker
from compress.stages.fit import torch_manifest
from compress.stages.model_name import ModelName
from compress.stages.opened import Run
from compress.stages.rundir import once, reading
from compress.stages.torch_engine import TorchEngine
from compress.training.seals import check_seal, seal, seal_of
from export.artifact.manifest import MADE_FOR_TENSORRT, Manifest, read_manifest
from export.atomic import write_json
from export.bundles.packing import fill_bundle, pack
from export.engine import Engine, open_engine
from export.errors import counted

Evaluated = dict[str, dict[str, MetricValues]]  # key of the row -> name of the metric -> values
TIMINGS = TypeAdapter(dict[str, Timing])  # by key of the row


@dataclass(frozen=True)
class Contestant:
    """A finished model to export and measure.

    Attributes:
        name: name of the model.
        detector: the model, with its final weights.
        weights: file of the weights.
        precisions: precisions to export.
        timed_in_torch: whether the model in torch gets a row.
        licences: those of its teachers' code.
    """

    name: ModelName
    detector: Detector
    weights: Path
    precisions: Sequence[str]
    timed_in_torch: bool
    licences: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """A row of the report to measure: one model in one backend and precision."""

    name: ModelName
    manifest: Manifest
    artifact: Path
    open: Callable[[], Engine]

    @property
    def key(self) -> str:
        """Return the row's name in files of the report."""
        return self.name.key(self.manifest.backend, self.manifest.precision)


def load_contestant(
    name: ModelName,
    folder: Path,
    detector: Detector,
    precisions: Sequence[str],
    *,
    in_torch: bool,
    licences: Sequence[str] = (),
) -> Contestant:
    """Load the weights of a finished training into `detector`."""
    weights = folder / "model.safetensors"
    load_weights(detector, weights, strict=True, what=name.role)
    return Contestant(name, detector.eval(), weights, precisions, in_torch, licences)


def export_all(run: Run, contestants: Sequence[Contestant]) -> list[Row]:
    """Export what is missing; return the rows to measure, in the order of the report.

    Raises:
        ExportError: the detections of a file differ from torch's.
    """
    rows: list[Row] = []
    for contestant in contestants:
        if contestant.timed_in_torch:
            rows.append(_torch_row(run, contestant))
        folders = _artifacts(run, contestant)
        rows.extend(
            _onnx_row(run, contestant, folder / "model.onnx")
            for folder in folders
            if not (folder / REFUSED).exists()
        )
    return rows


def _artifacts(run: Run, contestant: Contestant) -> Iterator[Path]:
    """Yield the folder of each precision, fp32 first: the others are made from it."""
    maker = Maker(run, contestant.detector, contestant.name, contestant.licences)

    def folder(precision: str, make: Callable[[Path], None]) -> Path:
        return once(run.home / "export" / f"{contestant.name}-{precision}", make)

    fp32 = folder("fp32", maker.fp32)
    source = fp32 / "model.onnx"
    yield fp32
    if "fp16" in contestant.precisions:
        yield folder("fp16", lambda out: maker.fp16(source, out))
    if "int8" in contestant.precisions:
        yield folder("int8", lambda out: maker.int8(source, out, "cpu"))
    if "int8-trt" in contestant.precisions:
        yield folder("int8-trt", lambda out: maker.int8(source, out, "tensorrt"))
    if "fp8" in contestant.precisions:
        yield folder("fp8", lambda out: maker.fp8(source, out))


def _torch_row(run: Run, contestant: Contestant) -> Row:
    recipe, detector, name = run.recipe, contestant.detector, contestant.name
    manifest = torch_manifest(detector, run.data, recipe.export, name.role)
    device = run.session.torch_device()
    make = partial(TorchEngine, detector, manifest, device, recipe.benchmark.threads)
    return Row(name, manifest, contestant.weights, make)


def _onnx_row(run: Run, contestant: Contestant, path: Path) -> Row:
    manifest = read_manifest(path.with_suffix(".json"))
    make = partial(open_engine, path, threads=run.recipe.benchmark.threads)
    return Row(contestant.name, manifest, path, make)


def evaluate_rows(run: Run, rows: Sequence[Row]) -> Evaluated:
    """Compute the metrics of every row from its own artifact; metrics by name, by key of the row.

    Detections and metrics are kept in the run folder. A metric that was added to
    `METRICS` after an interrupted run wrote them is computed from the kept detections.
    """
    ground_truth = coco_ground_truth(run.data.val)
    write_json(ground_truth, run.home / "evaluation" / "ground_truth.json", indent=None)
    found: Evaluated = {}
    for row in rows:

        def fill(out: Path, row: Row = row) -> None:
            with row.open() as engine:
                results = predict(engine, run.data.val, batch=16, other_classes=True)
            save_predictions(results, out / "predictions.json")
            metrics = compute_metrics(_predictions(out), ground_truth, row.artifact)
            content = metrics[COCO].model_dump(mode="json")
            content["metrics"] = {name: m.model_dump(mode="json") for name, m in metrics.items()}
            write_json(content, out / "ap.json")

        folder = once(run.home / "evaluation" / row.key, fill)
        known = _known_metrics(folder / "ap.json")
        found[row.key] = compute_metrics(_predictions(folder), ground_truth, row.artifact, known)
        ap = found[row.key][COCO].values["AP"]
        run.print(f"{row.key}: AP {'n/a' if ap is None else f'{100 * ap:.2f}'}")
    return found


def _predictions(folder: Path) -> list[CocoResult]:
    path = folder / "predictions.json"
    with reading(path, folder):
        found: list[CocoResult] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _known_metrics(file: Path) -> dict[str, MetricValues]:
    """Read what was computed before; runs of version 0.1 kept only COCO's metrics."""
    with reading(file, file.parent):
        content = json.loads(file.read_text(encoding="utf-8"))
        kept = content.get("metrics") or {COCO: content}
        return {name: MetricValues.model_validate(metric) for name, metric in kept.items()}


def time_rows(run: Run, rows: Sequence[Row]) -> dict[str, Timing]:
    """Measure latency and throughput of the rows side by side; return them by key of the row.

    Artifacts made for TensorRT are left out: their latency on a CPU would be misleading.
    """
    rows = [row for row in rows if row.manifest.precision not in MADE_FOR_TENSORRT]
    config, images = run.recipe.benchmark, run.data.val

    def fill(out: Path) -> None:
        threads = torch.get_num_threads()
        openers = {row.key: row.open for row in rows}
        timings = measure_repeatedly(openers, images, config, run.print)
        with ExitStack() as stack:
            engines = {row.key: stack.enter_context(row.open()) for row in rows}
            swept = sweep(engines, images, config)
        torch.set_num_threads(threads)
        measured = {
            key: timing.model_copy(update={"throughput": tuple(swept[key])})
            for key, timing in timings.items()
        }
        write_json(TIMINGS.dump_python(measured, mode="json"), out / "latency.json", indent=None)

    run.print(f"latency: {counted(len(rows), 'row')} in interleaved blocks")
    file = once(run.home / "latency", fill) / "latency.json"
    with reading(file, file.parent):
        return TIMINGS.validate_json(file.read_bytes())


def bundle_student(run: Run, rows: Sequence[Row]) -> Path:
    """Pack the first seed's exported students for the device; return the archive.

    The bundle verifies itself on the validation picture with the most boxes.
    """
    images, recipe = run.data.val, run.recipe
    students = [row for row in rows if row.name.role == "student"]
    artifacts = [row.artifact for row in students if row.manifest.backend != "torch"]
    busiest = max(range(len(images)), key=lambda index: len(images.images[index].boxes))

    def fill(out: Path) -> None:
        golden = read_photograph(images, busiest)
        fill_bundle(out, artifacts, golden, name=recipe.name, threads=recipe.benchmark.threads)

    bundle = once(run.home / "bundle", fill)
    archive = bundle.with_name("bundle.tar.gz")
    if archive.exists():
        check_seal(archive, "pack it again")
        return archive
    seal_of(archive).unlink(missing_ok=True)
    pack(bundle)
    seal(archive)
    return archive


def report_rows(
    run: Run,
    rows: Sequence[Row],
    accuracy: Evaluated,
    timings: Mapping[str, Timing],
    report: Path,
) -> list[ReportRow]:
    """Build the rows of report.json; copy the predictions beside it, so that it can be checked."""
    (report / "predictions").mkdir(parents=True, exist_ok=True)
    evaluation = run.home / "evaluation"
    shutil.copyfile(evaluation / "ground_truth.json", report / "ground_truth.json")
    found = []
    for row in rows:
        predictions = f"predictions/{row.key}.json"
        shutil.copyfile(evaluation / row.key / "predictions.json", report / predictions)
        made = report_row(row.manifest, accuracy[row.key], timings.get(row.key), row.artifact)
        added = {
            "model": row.name.role,
            "name": str(row.name),
            "key": row.key,
            "artifact": f"../{row.artifact.relative_to(run.home).as_posix()}",
            "predictions": predictions,
        }
        found.append(made.model_copy(update=added))
    return found
