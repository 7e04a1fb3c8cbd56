"""Metrics of a run's rows, from the artifacts to the rows of the report."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.accuracy import METRICS
from compress.stages.model_name import ModelName
from compress.stages.opened import Run
from compress.stages.ship import Row, evaluate_rows, report_rows, time_rows
from compress.training.seals import seal_of
from tests.benchmarks.accuracy.boxes_metric import boxes_metric
from tests.benchmarks.bright_boxes import BrightEngine, Clock, bright_manifest, bright_set
from tests.compress.smoke import opened_smoke

VALUES = {"detections": 3.0, "objects": 3.0, "bytes": 7.0}  # of `boxes_metric` on the set below


@pytest.fixture
def run(tmp_path: Path) -> Run:
    opened = opened_smoke(tmp_path)
    return replace(opened, data=replace(opened.data, val=bright_set(3)))


@pytest.fixture
def row(run: Run) -> Row:
    artifact = run.home / "export" / "model.onnx"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(b"weights")
    return Row(ModelName(0, "student"), bright_manifest(), artifact, BrightEngine)


def test_a_metric_is_one_entry_and_lands_in_the_row_of_the_report(
    run: Run, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "boxes", boxes_metric)
    accuracy = evaluate_rows(run, [row])
    assert accuracy[row.key]["boxes"].values == VALUES
    (made,) = report_rows(run, [row], accuracy, {}, run.home / "report")
    assert made.metrics["boxes"].values == VALUES
    assert made.ap["AP"] == pytest.approx(1)
    assert made.size_mb == 7e-6


def test_latency_and_throughput_reach_the_row_of_the_report(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter_ns", clock.read)
    benchmark = "benchmark={repeats: 1, blocks: 2, calls_per_block: 2, warmup: 1, images: 2, "
    run = opened_smoke(tmp_path, benchmark + "throughput_batches: [1, 2]}")
    run = replace(run, data=replace(run.data, val=bright_set(3)))
    row = replace(row, open=partial(BrightEngine, delay_ms=4, sleep=clock.sleep))
    accuracy, timings = evaluate_rows(run, [row]), time_rows(run, [row])
    (made,) = report_rows(run, [row], accuracy, timings, run.home / "report")
    assert made.latency_ms is not None
    assert made.latency_ms.engine.p50 == 4
    assert not made.verdict.startswith("not measured")
    assert [entry.images_per_s for entry in made.throughput] == [250, 500]
    (again,) = report_rows(run, [row], accuracy, time_rows(run, [row]), run.home / "again")
    assert again == made  # read back from the run folder


def test_an_artifact_made_for_tensorrt_has_a_row_without_latency(run: Run, row: Row) -> None:
    row = replace(row, manifest=row.manifest.model_copy(update={"precision": "int8-trt"}))
    (made,) = report_rows(run, [row], evaluate_rows(run, [row]), {}, run.home / "report")
    assert (made.latency_ms, made.verdict) == (None, "not measured: made for TensorRT")


def test_a_metric_added_after_a_cut_is_computed_from_the_kept_detections(
    run: Run, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_rows(run, [row])
    file = run.home / "evaluation" / row.key / "ap.json"
    kept = json.loads(file.read_text())
    del kept["metrics"]  # as runs of version 0.1 wrote it
    kept["values"]["AP"] = 0.25  # to see that it is read and not computed again
    file.write_text(json.dumps(kept))
    seal_of(file.parent).unlink()
    monkeypatch.setitem(METRICS, "boxes", boxes_metric)
    found = evaluate_rows(run, [replace(row, open=_not_opened)])[row.key]
    assert found["boxes"].values == VALUES
    assert found["coco_map"].values["AP"] == 0.25
    assert found["size_mb"].values == {"size_mb": 7e-6}


def _not_opened() -> BrightEngine:
    raise AssertionError("a finished evaluation must not open the artifact again")
