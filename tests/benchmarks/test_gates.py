"""Limits pass only between figures that can be held against each other."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.compare import main
from benchmarks.gates import GatesConfig
from tests.benchmarks.written_reports import FP32, LIMITS, VAL, change, on, stating, write


def timed(**changes: Any) -> dict[str, Any]:
    """Return a row's `latency_ms` with some keys changed, those of its quantiles too."""
    scope = {"p50": 5.0, "p90": 10.0, "p99": 10.0, "min": 1.0, "n": 500, "ci95_p50": [4, 6]}
    of_scope = {key: changes.pop(key) for key in list(changes) if key in scope}
    return {
        "latency_ms": {"engine": scope, "end_to_end": {**scope, **of_scope}, "batch": 1, **changes}
    }


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (timed(), timed(batch=8), "batch 1 and 8"),
        (timed(device="cpu"), timed(device="cuda:0"), "device cpu and cuda:0"),
        (timed(device="cpu"), timed(), "device cpu and None"),
        (timed(score_threshold=0.25), timed(score_threshold=0.9), "threshold 0.25 and 0.9"),
        (timed(), timed(n=1), "the new report has 1 call, min 1, p50 5, p99 10 ms, which is no"),
        (timed(n=0), timed(), "the reference has 0 calls"),
        (timed(), timed(p50=12.0), "min 1, p50 12, p99 10 ms, which is no timing"),
        (timed(), timed(min=9.0), "min 9, p50 5, p99 10 ms, which is no timing"),
        (timed(p99=0.001), timed(), "0.001 ms is no end-to-end p99"),
    ],
)
def test_timings_under_other_conditions_keep_no_limit(tmp_path, capsys, before, after, said):
    a, b = change(write(tmp_path / "a"), before), change(write(tmp_path / "b"), after)
    assert main([str(a), str(b), "--max-p99", "+900%", "--allow-noisy"]) == 3
    assert said in capsys.readouterr().err
    assert main([str(a), str(b), "--max-size", "+0%"]) == 0


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"cpu": {"model": "a"}}, {"cpu": {"model": "b"}}, "cpu a and b"),
        (
            {"cpu": {"model": "a", "logical_cores": 2}},
            {"cpu": {"model": "a", "logical_cores": 8}},
            "cpu a with 2 cores and a with 8 cores",
        ),
        ({"cpu": {"model": "a"}}, {}, "cpu a and not stated"),
        ({}, {}, "processors that are not stated"),
        (
            {"cpu": "a", "device": "cuda", "gpus": [{"name": "x"}]},
            {"cpu": "a", "device": "cuda", "gpus": [{"name": "y"}]},
            "gpu x and y",
        ),
    ],
)
def test_timings_of_other_machines_keep_no_limit(tmp_path, capsys, before, after, said):
    a = stating(write(tmp_path / "a"), environment=before)
    b = stating(write(tmp_path / "b"), environment=after)
    assert main([str(a), str(b), "--max-p99", "+5%", "--allow-noisy"]) == 3
    captured = capsys.readouterr()
    assert f"timed with {said}; measure both alike" in captured.err
    assert ("different machines" in captured.out) == (before != after)


@pytest.mark.parametrize("gpus", [[], [{"name": "y"}]])
def test_a_gpu_that_no_timing_used_is_no_difference(tmp_path: Path, gpus: list[Any]) -> None:
    machine = {"cpu": {"model": "a"}, "device": "cpu"}
    a = stating(write(tmp_path / "a"), environment=machine)
    b = stating(write(tmp_path / "b"), environment={**machine, "gpus": gpus})
    assert main([str(a), str(b), "--max-p99", "+5%"]) == 0


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"name": "x"}, {"name": "x"}, "do not state the pictures"),
        ({"data": {}}, {"data": {}}, "the first report does not state the pictures"),
        ({"preprocessing": 1}, {"preprocessing": 2}, "preprocessing: version 1 and version 2"),
        ({"preprocessing": 1}, {}, "preprocessing: version 1 and an unstated version"),
    ],
)
def test_ap_of_unstated_pictures_or_another_preprocessing_keeps_no_limit(
    tmp_path, capsys, before, after, said
):
    a, b = stating(write(tmp_path / "a"), **before), stating(write(tmp_path / "b"), **after)
    assert main([str(a), str(b), "--max-ap-drop", "50"]) == 3
    assert said in capsys.readouterr().err


def test_a_row_with_other_classes_keeps_no_limit_of_ap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red, fish = {"per_class": {"red": 0.5}}, {"per_class": {"fish": 0.5}}
    a = stating(change(write(tmp_path / "a"), red, {**FP32, **fish}), **on(VAL))
    b = stating(change(write(tmp_path / "b"), red, {**FP32, **red}), **on(VAL))
    assert main([str(a), str(b), "--max-ap-drop", "50"]) == 3
    assert "different classes: fish" in capsys.readouterr().err


def test_a_reference_without_a_student_keeps_no_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = {"model": "teacher", "name": "teacher"}
    a, b = change(write(tmp_path / "a"), teacher), change(write(tmp_path / "b"), teacher, {})
    assert main([str(a), str(b), *LIMITS]) == 3
    assert "student: the reference has no row of it" in capsys.readouterr().err


@pytest.mark.parametrize("verdict", ["valid: failed", "VALID", "", " valid", "noisyish", "noisy:"])
def test_a_verdict_that_no_measurement_gives_marks_a_row_as_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verdict: str
) -> None:
    a, b = write(tmp_path / "a"), change(write(tmp_path / "b"), {"verdict": verdict})
    assert main([str(a), str(b), *LIMITS]) == 3
    assert f"the row of the new report is marked {verdict!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("max_ap_drop", "1000", "a number below 100"),
        ("max_ap_drop", "100", "a number below 100"),
        ("max_size", "999999999999999%", "nothing can exceed it; write at most +1000%"),
        ("max_p50", "1001%", "nothing can exceed it; write at most +1000%"),
        ("max_p99", "10000000", "nothing can exceed it; write at most 1000000"),
    ],
)
def test_a_limit_that_holds_nothing_back_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    a = write(tmp_path / "a")
    assert main([str(a), str(a), f"--{option.replace('_', '-')}", value]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(ValidationError):
        GatesConfig.model_validate({option: float(value) if value.isdigit() else value})
