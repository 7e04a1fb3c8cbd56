"""Metrics of a run's rows, from the artifacts to the rows of the report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.accuracy import METRICS
from compress.console import Console
from compress.data.config import Data
from compress.recipe import load_recipe
from compress.stages.session import Session
from compress.stages.ship import Row, evaluate_rows, report_rows
from tests.benchmarks.accuracy.boxes_metric import boxes_metric
from tests.benchmarks.bright_boxes import BrightEngine, bright_manifest, bright_set
from tests.compress.smoke import write_smoke

VALUES = {"detections": 3.0, "objects": 3.0, "bytes": 7.0}  # of `boxes_metric` on the set below


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "run", "cpu", Console(quiet=True))


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return replace(load_recipe(write_smoke(tmp_path))[0].data.open(), val=bright_set(3))


@pytest.fixture
def row(session: Session) -> Row:
    artifact = session.home / "export" / "model.onnx"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(b"weights")
    return Row("student-numpy", "student", "student", bright_manifest(), artifact, BrightEngine)


def test_a_metric_is_one_entry_and_lands_in_the_row_of_the_report(
    session: Session, data: Data, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "boxes", boxes_metric)
    accuracy = evaluate_rows(session, data, [row])
    assert accuracy[row.key]["boxes"].values == VALUES
    (made,) = report_rows(session, [row], accuracy, {}, session.home / "report")
    assert made["metrics"]["boxes"].values == VALUES
    assert made["ap"]["AP"] == pytest.approx(1)
    assert made["size_mb"] == 7e-6


def test_a_metric_added_after_a_cut_is_computed_from_the_kept_detections(
    session: Session, data: Data, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_rows(session, data, [row])
    file = session.home / "evaluation" / row.key / "ap.json"
    kept = json.loads(file.read_text())
    del kept["metrics"]  # as runs of version 0.1 wrote it
    kept["values"]["AP"] = 0.25  # to see that it is read and not computed again
    file.write_text(json.dumps(kept))
    monkeypatch.setitem(METRICS, "boxes", boxes_metric)
    found = evaluate_rows(session, data, [replace(row, open=_not_opened)])[row.key]
    assert found["boxes"].values == VALUES
    assert found["coco_map"].values["AP"] == 0.25
    assert found["size_mb"].values == {"size_mb": 7e-6}


def _not_opened() -> BrightEngine:
    raise AssertionError("a finished evaluation must not open the artifact again")
