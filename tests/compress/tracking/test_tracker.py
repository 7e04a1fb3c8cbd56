"""A tracker that fails costs a run a warning, and never more."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.timing.latency import measure
from compress.console import Console
from compress.recipe import Recipe, load_recipe
from compress.stages.rundir import open_run
from compress.stages.track import report_figures
from compress.tracking.mlflow import flat
from compress.tracking.open import check_trackers
from compress.tracking.tracker import GIVE_UP, Outcome, Tracker, Trackers
from export.errors import MissingDependencyError, RecipeError
from tests.benchmarks.bright_boxes import BrightEngine, bright_set
from tests.benchmarks.report.test_content import GAIN, SHORT, report, row
from tests.compress.smoke import write_smoke


class Diary:
    """A tracker that keeps a list, and fails while it is told to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.broken = False

    def _write(self, line: str) -> None:
        if self.broken:
            raise ConnectionError("the server\nis away")
        self.lines.append(line)

    def begin(self, model: str, step: int) -> None:
        self._write(f"begin {model} {step}")

    def log(self, model: str, figures: Mapping[str, float], step: int) -> None:
        self._write(f"log {model} {dict(figures)} {step}")

    def end(self, model: str) -> None:
        self._write(f"end {model}")

    def report(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        self._write(f"report {dict(figures)} {len(files)}")

    def close(self, outcome: Outcome) -> None:
        self._write(f"close {outcome}")


def trackers_of(**openers: Callable[[], Tracker]) -> Trackers:
    return Trackers(Console(), openers)


def test_a_run_is_told_in_order_to_every_tracker() -> None:
    one, two = Diary(), Diary()
    with trackers_of(one=lambda: one, two=lambda: two) as trackers:
        with trackers.training("student", 3) as log:
            log({"AP": 0.5}, 4)
        assert trackers.report({"gain": 1.0}, [], without={"two"}) == {"one"}
    told = ["begin student 3", "log student {'AP': 0.5} 4", "end student"]
    assert one.lines == [*told, "report {'gain': 1.0} 0", "close finished"]
    assert two.lines == [*told, "close finished"]


def test_a_tracker_that_is_not_needed_is_not_opened() -> None:
    def opener() -> Tracker:
        raise AssertionError("nothing was to be recorded")

    with trackers_of(one=opener) as trackers:
        assert trackers.report({}, [], without={"one"}) == set()


@pytest.mark.parametrize(
    ("error", "outcome"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")]
)
def test_a_run_that_ends_early_is_closed_with_its_reason(
    error: type[BaseException], outcome: str
) -> None:
    diary = Diary()
    with (
        pytest.raises(error),
        trackers_of(one=lambda: diary) as trackers,
        trackers.training("student", 0),
    ):
        raise error
    assert diary.lines == ["begin student 0", "end student", f"close {outcome}"]


def test_failures_are_counted_and_the_other_trackers_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken, whole = Diary(), Diary()
    with trackers_of(broken=lambda: broken, whole=lambda: whole) as trackers:
        with trackers.training("student", 0) as log:
            broken.broken = True
            for step in range(1, 11):
                log({"AP": 0.1}, step)
        assert trackers.report({}, []) == {"whole"}
        broken.broken = False
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "WARNING: track: broken failed (ConnectionError: the server); the run goes on",
        f"WARNING: track: broken failed {GIVE_UP} times in a row; it is tried again at the end",
        # ten figures, the end of the training, the report
        "WARNING: track: 12 calls of broken failed; results.csv in training/ and the report hold "
        "all figures",
    ]
    assert broken.lines == ["begin student 0", "close finished"]
    assert len(whole.lines) == 14


def test_a_tracker_that_cannot_be_opened_is_tried_again() -> None:
    diary, calls = Diary(), list[int]()

    def opener() -> Tracker:
        calls.append(1)
        if len(calls) < 2:
            raise ConnectionError("not yet")
        return diary

    with trackers_of(late=opener) as trackers, trackers.training("student", 0) as log:
        log({"AP": 0.5}, 1)
    assert diary.lines == ["log student {'AP': 0.5} 1", "end student", "close finished"]


def test_settings_become_flat_text() -> None:
    assert flat({"a": {"b": 1, "c": None}, "d": [1, 2], "e": [{"f": "g"}, {}], "h": {}}) == {
        "a.b": "1",
        "a.c": "null",
        "d": "[1, 2]",
        "e.0.f": "g",
        "e.1": "{}",
        "h": "{}",
    }


def test_a_report_gives_its_figures_by_row() -> None:
    with BrightEngine() as engine:
        latency = measure({"only": engine}, bright_set(), SHORT)["only"].latency_ms
    timed, untimed = row("student", 0.5, latency=latency), row("teacher", 0.75)
    timed = timed.model_copy(update={"key": "seed0-student-torch-fp32", "size_mb": 1.5})
    found = dict(report_figures(report(timed, untimed, gain=GAIN)))
    assert found["seed0-student-torch-fp32/AP"] == 0.5
    assert "seed0-student-torch-fp32/AP_L" not in found  # COCO gave none
    assert found["seed0-student-torch-fp32/size_mb"] == 1.5
    assert found["seed0-student-torch-fp32/engine_ms_p50"] == latency.engine.p50
    assert found["seed0-student-torch-fp32/end_to_end_ms_p50"] == latency.end_to_end.p50
    assert found["teacher-torch-fp32/AP"] == 0.75
    assert "teacher-torch-fp32/engine_ms_p50" not in found
    assert found["gain/AP"] == 0.1


def test_trackers_may_change_under_an_old_name(tmp_path: Path) -> None:
    path = write_smoke(tmp_path)
    before, source = load_recipe(path)
    assert before.track == ("tensorboard",)
    assert "track" not in before.resolved()
    after, _ = load_recipe(path, ["track=[mlflow]"])
    home = open_run(tmp_path, "smoke", before.resolved(), source.text, Recipe.resolved_anew)
    assert open_run(tmp_path, "smoke", after.resolved(), source.text, Recipe.resolved_anew) == home


@pytest.mark.parametrize("value", ["[mlfow]", "[mlflow, mlflow]", "mlflow"])
def test_a_wrong_tracker_is_a_mistake_with_its_key(tmp_path: Path, value: str) -> None:
    with pytest.raises(RecipeError, match="track"):
        load_recipe(write_smoke(tmp_path), [f"track={value}"])


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(MissingDependencyError, match=r"slimdet\[mlflow\]"):
        check_trackers(("tensorboard", "mlflow"))
