"""MLflow and W&B against local stores, TensorBoard's files, and a run that writes to all three."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from compress.console import Console
from compress.tracking.open import TrackerName, open_trackers
from compress.tracking.tracker import Experiment, Trackers
from tests.compress.smoke import write_smoke

ROOT = Path(__file__).resolve().parents[3]
SETTINGS: dict[str, Any] = {"train": {"lr": 0.01}, "many": {f"key{i}": i for i in range(150)}}

pytestmark = pytest.mark.slow
with_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="needs mlflow")
with_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb")


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the stores of whoever runs the tests alone."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


def trackers(home: Path, *names: TrackerName) -> Trackers:
    home.mkdir(parents=True, exist_ok=True)
    return open_trackers(names, Experiment(home.name, home, SETTINGS), Console())


def train(
    opened: Trackers, model: str, first: int, last: int, *, interrupted: bool = False
) -> None:
    with opened.training(model, first) as log:
        for step in range(first + 1, last + 1):
            log({"AP": step / 100, "loss/task[0]": 1 / step}, step)
    if interrupted:
        raise KeyboardInterrupt


def mlflow_runs(runs: Path) -> tuple[Any, list[Any]]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs / '.mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("slimdet")
    return client, client.search_runs([experiment.experiment_id])


@with_mlflow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_one_run_through_an_interruption(tmp_path: Path) -> None:
    home, page = tmp_path / "first", tmp_path / "report.html"
    page.write_text("<html></html>", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), trackers(home, "mlflow") as opened:
        train(opened, "student", 0, 2, interrupted=True)
    client, (run,) = mlflow_runs(tmp_path)
    assert run.info.status == "KILLED"
    with trackers(home, "mlflow") as opened:
        train(opened, "student", 2, 4)
        assert opened.report({"gain/AP": 0.5}, [page]) == {"mlflow"}
    client, (run,) = mlflow_runs(tmp_path)
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert len(run.data.params) == 151
    assert run.data.params["train.lr"] == "0.01"
    curve = client.get_metric_history(run.info.run_id, "student/AP")
    assert [(point.step, point.value) for point in curve] == [
        (1, 0.01),
        (2, 0.02),
        (3, 0.03),
        (4, 0.04),
    ]
    assert run.data.metrics["student/loss/task_0_"] == 0.25
    assert run.data.metrics["report/gain/AP"] == 0.5
    (file,) = client.list_artifacts(run.info.run_id, "report")
    assert file.path == "report/report.html"
    assert (tmp_path / ".mlflow" / "artifacts").is_dir()


@with_mlflow
@pytest.mark.filterwarnings("ignore")
def test_a_run_that_was_deleted_in_mlflow_begins_anew(tmp_path: Path) -> None:
    with trackers(tmp_path / "first", "mlflow") as opened:
        train(opened, "student", 0, 1)
    client, (run,) = mlflow_runs(tmp_path)
    client.delete_run(run.info.run_id)
    with trackers(tmp_path / "first", "mlflow") as opened:
        train(opened, "student", 1, 2)
    _, (again,) = mlflow_runs(tmp_path)
    assert again.info.run_id != run.info.run_id
    assert set(again.data.metrics) == {"student/AP", "student/loss/task_0_"}


@with_mlflow
def test_a_tracking_server_that_is_away_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with trackers(tmp_path / "first", "mlflow", "tensorboard") as opened:
        train(opened, "student", 0, 10)
        assert opened.report({}, []) == {"tensorboard"}
    warnings = [line for line in capsys.readouterr().err.splitlines() if "WARNING: track" in line]
    assert len(warnings) == 3
    assert "mlflow failed" in warnings[0]
    assert "13 calls of mlflow failed" in warnings[2]


def wandb_files(home: Path) -> list[Path]:
    return sorted(home.glob("wandb/offline-run-*/run-*.wandb"))


def wandb_records(file: Path) -> list[Any]:
    """Read what an offline run of W&B has written; its last page comes after `finish`."""
    for _ in range(300):
        records = list(records_of(file))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file} is not finished")


def records_of(file: Path) -> Iterator[Any]:
    """Read a file of W&B: a header, then a log in LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, data = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place < len(content):
        left = 32768 - place % 32768  # of the block; too little for a header is padding
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        data += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(data)
            yield record
            data = b""


def wandb_history(file: Path) -> list[dict[str, Any]]:
    rows = []
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in items
                }
            )
    return rows


@with_wandb
def test_wandb_keeps_one_run_through_an_interruption(tmp_path: Path) -> None:
    home, page = tmp_path / "first", tmp_path / "report.html"
    page.write_text("<html></html>", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), trackers(home, "wandb") as opened:
        train(opened, "student", 0, 2, interrupted=True)
    with trackers(home, "wandb") as opened:
        train(opened, "student", 2, 4)
        train(opened, "teacher", 0, 1)  # each training has steps of its own
        assert opened.report({"gain/AP": 0.5}, [page]) == {"wandb"}
    name = json.loads((home / "wandb.json").read_text())["run"]
    records = [record for file in wandb_files(home) for record in wandb_records(file)]
    started = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert {(run.run_id, run.display_name, run.project) for run in started} == {
        (name, "first", "slimdet")
    }
    rows = [row for file in wandb_files(home) for row in wandb_history(file)]
    curve = [(row["student/step"], row["student/AP"]) for row in rows if "student/AP" in row]
    assert curve == [(1, 0.01), (2, 0.02), (3, 0.03), (4, 0.04)]
    assert [row["teacher/step"] for row in rows if "teacher/AP" in row] == [1]
    assert [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"] == [130, 0]
    kinds = {r.WhichOneof("record_type") for r in records}
    assert {"config", "metric", "summary"} & kinds
    assert any("report" in str(r) and "artifact" in str(r) for r in records)


@with_wandb
def test_wandb_without_a_key_writes_offline_and_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with trackers(tmp_path / "first", "wandb") as opened:
        train(opened, "student", 0, 1)
    (file,) = wandb_files(tmp_path / "first")
    assert [row["student/AP"] for row in wandb_history(file)] == [0.01]


def test_tensorboard_supersedes_what_was_written_after_the_checkpoint(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with trackers(tmp_path / "first", "tensorboard") as opened:
        train(opened, "student", 0, 4)
    with trackers(tmp_path / "first", "tensorboard") as opened:
        train(opened, "student", 2, 3)
    found = EventAccumulator(str(tmp_path / "first" / "training" / "student")).Reload()
    assert [event.step for event in found.Scalars("AP")] == [1, 2, 3]


@with_mlflow
@with_wandb
@pytest.mark.filterwarnings("ignore")
def test_a_run_that_is_killed_ends_as_one_run_in_every_store(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "compress.run", str(write_smoke(tmp_path))]
    command += ["--runs", str(runs), "baseline.enabled=false", "distill=[]", "train.steps=12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    everywhere = "track=[tensorboard, mlflow, wandb]"
    home, trained = runs / "smoke", runs / "smoke" / "training" / "seed0-student" / "last.pt"
    with subprocess.Popen([*command, everywhere], cwd=ROOT, env=environment) as process:
        while not trained.exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(
        [*command, everywhere], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING: track" not in done.stderr
    report = json.loads((home / "report" / "report.json").read_text(encoding="utf-8"))
    client, (run,) = mlflow_runs(runs)
    assert run.info.status == "FINISHED"
    assert run.data.params["student.type"] == "gfl"
    assert {"teacher/AP", "seed0-student/AP", "seed0-student/learning_rate"} <= set(
        run.data.metrics
    )
    rows = {row["key"]: row for row in report["rows"]}
    key = "seed0-student-onnxruntime-fp32"
    assert run.data.metrics[f"report/{key}/AP"] == rows[key]["ap"]["AP"]
    kept = {file.path for file in client.list_artifacts(run.info.run_id, "report")}
    assert kept == {"report/report.json", "report/report.html"}
    files = wandb_files(home)
    assert len({file.name for file in files}) == 1  # named by the run's id
    assert any("seed0-student/AP" in row for row in wandb_history(files[-1]))
    assert list((home / "training" / "seed0-student").glob("events.out.tfevents*"))
    assert json.loads((home / "report" / "tracked.json").read_text()) == [
        "mlflow",
        "tensorboard",
        "wandb",
    ]
    again = subprocess.run(
        [*command, "track=[wandb]"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert wandb_files(home) == files
