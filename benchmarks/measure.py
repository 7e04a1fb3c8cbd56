"""Measure exported models on one set of pictures: accuracy, latency, throughput, report."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.accuracy import COCO, SIZE
from benchmarks.accuracy.deployed import deployed_accuracy
from benchmarks.accuracy.evaluate import (
    category_of_label,
    compute_metrics,
    predict,
    save_predictions,
)
from benchmarks.accuracy.metric import CocoResult, MetricValues
from benchmarks.data.folder import read_measured
from benchmarks.data.image_set import ImageSet, coco_ground_truth
from benchmarks.report.content import ReportData, ReportRow, Speed, write_report
from benchmarks.report.samples import sample_grid, telling_pictures
from benchmarks.report.text import row_title
from benchmarks.timing.environment import environment
from benchmarks.timing.latency import BenchmarkConfig, Timing, ratio_ci
from benchmarks.timing.repeats import EngineSettings, measure_repeatedly
from benchmarks.timing.throughput import sweep
from export.artifact.manifest import Manifest
from export.engine import Engine


def measure(
    models: Sequence[Path],
    data: Path,
    images_folder: Path | None = None,
    out: Path | None = None,
    settings: EngineSettings | None = None,
    repeats: int | None = None,
    split: str = "val",
    division: Path | None = None,
) -> ReportData:
    """Measure every model on the same pictures; write the report into `out` if given.

    Latency is measured in `repeats` fresh processes, or in this one if that is 1; None takes the
    default of `BenchmarkConfig`. `data`, `split`, `images_folder` and `division` are those of
    `read_measured`.

    Raises:
        ToolkitError: a model, the data or a package is missing or cannot be used.
    """
    settings = settings or EngineSettings()
    config = BenchmarkConfig(threads=settings.threads, repeats=repeats or BenchmarkConfig().repeats)
    images = read_measured(data, split, images_folder, division)
    truth = coco_ground_truth(images)
    openers = {_name(path, models): partial(settings.open, path) for path in models}
    engines = {name: make() for name, make in openers.items()}
    for engine in engines.values():
        category_of_label(engine.manifest, images)  # wrong classes are found before any work
    predictions: dict[str, list[CocoResult]] = {}
    metrics: dict[str, dict[str, MetricValues]] = {}
    paths = dict(zip(engines, models, strict=True))
    # Before this process opens anything itself, so that a GPU is held by who measures it alone.
    timings = measure_repeatedly(openers, images, config, _say)
    with ExitStack() as stack:
        opened = {name: stack.enter_context(engine) for name, engine in engines.items()}
        for name, engine in opened.items():
            _say(f"{name}: {len(images)} pictures")
            predictions[name] = predict(engine, images)
            metrics[name] = compute_metrics(predictions[name], truth, paths[name])
        content = _content(paths, opened, metrics, timings)
        _say(f"throughput at batch {_listed(config.throughput_batches)}")
        swept = sweep(opened, images, config)
    rows = []
    for row, (name, engine) in zip(content.rows, engines.items(), strict=True):
        threshold = engine.manifest.score_threshold
        measured = {
            "deployed": deployed_accuracy(predictions[name], truth, threshold),
            "throughput": tuple(entry.to_dict() for entry in swept[name]),
        }
        rows.append(row.model_copy(update=measured))
    content = content.model_copy(update={"rows": tuple(rows)})
    content = content.model_copy(update={"name": f"{data.stem}, {len(images)} pictures"})
    if out is not None:
        content = _save(content, images, predictions, out)
    return content


def _content(
    paths: Mapping[str, Path],
    engines: Mapping[str, Engine],
    metrics: Mapping[str, Mapping[str, MetricValues]],
    timings: Mapping[str, Timing],
) -> ReportData:
    rows = [
        _row(paths[name], engine.manifest, metrics[name], timings[name])
        for name, engine in engines.items()
    ]
    rows = _told_apart(rows, list(engines))
    titles = dict(zip(engines, (row_title(row.model_dump()) for row in rows), strict=True))
    first, *others = engines
    return ReportData(
        name="",
        environment=environment(),
        rows=tuple(rows),
        speed=tuple(
            _speed(titles[name], titles[first], timings[name], timings[first]) for name in others
        ),
        per_class={name: metrics[name][COCO].per_class for name in engines},
    )


def _told_apart(rows: Sequence[ReportRow], names: Sequence[str]) -> list[ReportRow]:
    """Add the file's name to models that would be called the same, such as two forms of NMS."""
    titles = [row_title(row.model_dump()) for row in rows]
    return [
        row.model_copy(update={"model": f"{row.model} {name}"}) if titles.count(title) > 1 else row
        for row, title, name in zip(rows, titles, names, strict=True)
    ]


def _row(
    path: Path, manifest: Manifest, metrics: Mapping[str, MetricValues], timing: Timing
) -> ReportRow:
    certificate = manifest.certificate
    return ReportRow(
        model=manifest.model,
        backend=manifest.backend,
        precision=manifest.precision,
        artifact=str(path),
        sha256=manifest.sha256,
        size_mb=metrics[SIZE].values[SIZE],
        parameters=manifest.parameters,
        ap=metrics[COCO].values,
        metrics=dict(metrics),
        latency_ms=timing.to_dict(),
        predictions=None,
        verdict=timing.verdict,
        parity=dict(manifest.parity),
        certificate=None if certificate is None else certificate.model_dump(mode="json"),
    )


def _speed(model: str, reference: str, timing: Timing, reference_timing: Timing) -> Speed:
    ratio = ratio_ci(reference_timing.end_to_end_blocks, timing.end_to_end_blocks)
    return Speed(
        model=model,
        reference=reference,
        scope="end_to_end",
        ratio=ratio.ratio,
        ci95=ratio.ci95,
        verdict=ratio.verdict,
    )


def _save(
    content: ReportData,
    images: ImageSet,
    predictions: Mapping[str, list[CocoResult]],
    out: Path,
) -> ReportData:
    rows = []
    for row, (name, results) in zip(content.rows, predictions.items(), strict=True):
        path = out / "predictions" / f"{name}.json"
        save_predictions(results, path)
        rows.append(row.model_copy(update={"predictions": path.relative_to(out).as_posix()}))
    threshold = BenchmarkConfig().score_threshold
    sheet = sample_grid(
        images, telling_pictures(images, 8), predictions, threshold, out / "plots" / "samples.jpg"
    )
    picture = {
        "path": sheet.relative_to(out).as_posix(),
        "caption": f"Boxes with a score of {threshold} and above",
    }
    saved = ReportData.model_validate(
        {**content.model_dump(by_alias=True), "rows": rows, "pictures": [picture]}
    )
    write_report(saved, out)
    return saved


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _listed(batches: Sequence[int]) -> str:
    return ", ".join(map(str, batches))


def _name(path: Path, models: Sequence[Path]) -> str:
    """The file's name, with its folder's where two files have the same."""
    twins = [other for other in models if other.stem == path.stem]
    if len(twins) == 1:
        return path.stem
    name = f"{path.parent.name}-{path.stem}"
    if len({other.parent.name for other in twins}) < len(twins):
        name = f"{name}-{models.index(path) + 1}"
    return name
