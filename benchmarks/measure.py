"""Measure exported models on one set of pictures: accuracy, latency, throughput, report."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pydantic import JsonValue

from benchmarks.accuracy.ceiling import ceiling_warnings
from benchmarks.accuracy.deployed import deployed_accuracy
from benchmarks.accuracy.evaluate import (
    category_of_label,
    compute_metrics,
    predict,
    save_predictions,
)
from benchmarks.accuracy.metric import CocoResult
from benchmarks.data.folder import read_measured
from benchmarks.data.image_set import ImageSet, coco_ground_truth
from benchmarks.report.content import report_row, speed_of, write_report
from benchmarks.report.samples import sample_grid, sample_pictures
from benchmarks.report.schema import Picture, ReportData, ReportRow, Speed
from benchmarks.report.text import row_title
from benchmarks.timing.environment import environment
from benchmarks.timing.latency import BenchmarkConfig, ratio_ci
from benchmarks.timing.records import Timing
from benchmarks.timing.repeats import measure_repeatedly
from benchmarks.timing.throughput import sweep
from export.arguments import say
from export.artifact.int8_range import saturates_here, saturation
from export.artifact.manifest import NOTICE
from export.artifact.preprocessing import UNSTATED, VERSION
from export.backends.interface import EngineSettings
from export.engine import Engine, open_engine
from export.errors import counted


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
    opener = partial(
        open_engine,
        threads=settings.threads,
        device=settings.device,
        cuda_graph=settings.cuda_graph,
    )
    openers = {_name(path, models): partial(opener, path) for path in models}
    engines = {name: make() for name, make in openers.items()}
    for engine in engines.values():
        category_of_label(
            engine.manifest, images
        )  # a mismatch of classes ends here, before any work
    for line in (images.source, *_left_out(images)):
        _log(f"data: {line}")
    paths = dict(zip(engines, models, strict=True))
    predictions: dict[str, list[CocoResult]] = {}
    # Before this process opens an engine, so that only the measuring process holds the GPU.
    timings = measure_repeatedly(openers, images, config, _log)
    with ExitStack() as stack:
        opened = {name: stack.enter_context(engine) for name, engine in engines.items()}
        for name, engine in opened.items():
            _log(f"{name}: {counted(len(images), 'picture')}")
            predictions[name] = predict(engine, images)
        _log(f"throughput at batch {_listed(config.throughput_batches)}")
        swept = sweep(opened, images, config)
    rows = []
    for name, engine in engines.items():
        timings[name] = timings[name].model_copy(update={"throughput": tuple(swept[name])})
        metrics = compute_metrics(predictions[name], truth, paths[name])
        row = report_row(engine.manifest, metrics, timings[name], paths[name])
        threshold = engine.manifest.score_threshold
        deployed = deployed_accuracy(predictions[name], truth, threshold)
        rows.append(row.model_copy(update={"deployed": deployed}))
    rows = _with_unique_titles(rows, list(engines))
    content = ReportData(
        name=f"{data.stem}, {counted(len(images), 'picture')}",
        environment=environment(),
        preprocessing=VERSION,
        rows=tuple(rows),
        speed=_speeds(rows, [timings[name] for name in engines]),
        per_class={name: row.per_class for name, row in zip(engines, rows, strict=True)},
        warnings=(*images.warnings, *_full_pictures(engines, images), *_cautions(engines)),
        data={"splits": {images.name: _counts(images)}},
        notes=(*_licences(engines), *_left_out(images)),
    )
    if out is not None:
        content = _save(content, images, predictions, out)
    return content


def _counts(images: ImageSet) -> dict[str, JsonValue]:
    """Return what was read, kept and left out, by the names that a run's report has for it."""
    alone = Counter[str]()
    for image in images.images:
        alone.update(images.classes[label] for label in image.labels[~image.crowd])
    return {
        "source": images.source,
        "images": len(images),
        "images_without_boxes": sum(not len(image.labels) for image in images.images),
        "boxes": alone.total(),
        "crowd": sum(int(image.crowd.sum()) for image in images.images),
        "boxes_per_class": {name: alone[name] for name in images.classes},
        "read": asdict(images.tally),
    }


def _left_out(images: ImageSet) -> list[str]:
    """Return what was corrected or left out while reading, counted, one sentence each."""
    return [line for line in (images.tally.line(), *images.notes) if line]


def _licences(engines: Mapping[str, Engine]) -> list[str]:
    """Return the notices of other packages' licences that the models' sidecars hold."""
    made_by = [engine.manifest.made_by for engine in engines.values()]
    found = dict.fromkeys(made[NOTICE] for made in made_by if NOTICE in made)
    return [f"Stated by the run that made the model: {one}" for one in found]


def _full_pictures(engines: Mapping[str, Engine], images: ImageSet) -> list[str]:
    """Return a warning where the models' limits on detections cut the truth."""
    limits = {engine.manifest.nms.max_detections for engine in engines.values()}
    return [line for most in sorted(limits) for line in ceiling_warnings({"data": images}, most)]


def _cautions(engines: Mapping[str, Engine]) -> list[str]:
    """Return warnings of models that may find other boxes here than where they were made."""
    found, here = [], saturates_here()
    for name, engine in engines.items():
        if engine.manifest.input.preprocessing is None:
            found.append(f"{name}: {UNSTATED}")
        caution = saturation(engine.manifest.model_dump(), engine.device, here)
        if caution is not None:
            found.append(f"{name}: {caution}")
    return found


def _speeds(rows: Sequence[ReportRow], timings: Sequence[Timing]) -> tuple[Speed, ...]:
    """Compare every model end to end with the first."""
    reference, first = row_title(rows[0]), timings[0]
    return tuple(
        speed_of(
            row_title(row),
            reference,
            "end_to_end",
            ratio_ci(first.end_to_end_blocks, timing.end_to_end_blocks),
        )
        for row, timing in list(zip(rows, timings, strict=True))[1:]
    )


def _with_unique_titles(rows: Sequence[ReportRow], names: Sequence[str]) -> list[ReportRow]:
    """Add the file's name to models with equal titles, such as two forms of NMS."""
    titles = [row_title(row) for row in rows]
    return [
        row.model_copy(update={"model": f"{row.model} {name}"}) if titles.count(title) > 1 else row
        for row, title, name in zip(rows, titles, names, strict=True)
    ]


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
        images, sample_pictures(images, 8), predictions, threshold, out / "plots" / "samples.jpg"
    )
    picture = Picture(
        path=sheet.relative_to(out).as_posix(),
        caption=f"Boxes with a score of {threshold} and above",
    )
    saved = content.model_copy(update={"rows": tuple(rows), "pictures": (picture,)})
    write_report(saved, out)
    return saved


def _log(text: str) -> None:
    say(text, sys.stderr)


def _listed(batches: Sequence[int]) -> str:
    return ", ".join(map(str, batches))


def _name(path: Path, models: Sequence[Path]) -> str:
    """Return the file's name, with its folder's name where two files have the same name."""
    twins = [other for other in models if other.stem == path.stem]
    if len(twins) == 1:
        return path.stem
    name = f"{path.parent.name}-{path.stem}"
    if len({other.parent.name for other in twins}) < len(twins):
        name = f"{name}-{models.index(path) + 1}"
    return name
