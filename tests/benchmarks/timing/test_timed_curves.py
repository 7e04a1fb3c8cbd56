"""AP against time: what is added up, and when there is nothing to compare."""

from typing import Any

import pytest

from benchmarks.report.headline_plots import timed_caption
from benchmarks.timing.timed_curves import timed_curves


def rows(*seconds: float, column: str = "processor_seconds") -> list[dict[str, float | None]]:
    return [{"step": 4.0, column: s, "AP": 0.1 * (n + 1)} for n, s in enumerate(seconds)]


def test_stages_follow_one_another_and_the_stored_outputs_come_before_the_student_alone() -> None:
    trainings = {
        ("baseline", 0): [rows(1, 2), rows(3, 5)],
        ("student", 0): [rows(2, 4), rows(3, 6)],
    }
    found = timed_curves(trainings, ["cpu", "cpu"], workers=0, taught_s=10)
    assert found is not None
    plain, distilled = found.curves
    assert [s for s, _ in plain.points] == [1, 2, 5, 7]
    assert [s for s, _ in distilled.points] == [12, 14, 17, 20]
    assert [ap for _, ap in distilled.points] == [0.1, 0.2, 0.1, 0.2]
    assert "10 s in which the teacher's outputs were stored" in timed_caption(found)


def test_the_clock_is_processor_time_on_a_cpu_and_time_on_a_gpu() -> None:
    both = {("student", 0): [[{"AP": 0.1, "seconds": 7.0, "processor_seconds": 3.0}]]}
    on_cpu = timed_curves(both, ["cpu"], workers=2, taught_s=0)
    on_gpu = timed_curves(both, ["cuda"], workers=2, taught_s=0)
    assert on_cpu is not None
    assert on_cpu.curves[0].points == ((3.0, 0.1),)
    assert on_cpu.clock == (
        "processor time of the training process, without the 2 that load pictures"
    )
    assert on_gpu is not None
    assert on_gpu.curves[0].points == ((7.0, 0.1),)
    assert on_gpu.clock == "time"
    assert "stored" not in timed_caption(on_gpu)


@pytest.mark.parametrize(
    ("devices", "column"),
    [
        (["cpu"], "seconds"),  # a run of an earlier version, which had no processor time
        (["cpu", "cuda"], "processor_seconds"),
        ([], "processor_seconds"),
    ],
)
def test_trainings_without_one_clock_are_not_compared(devices: list[str], column: str) -> None:
    trainings: dict[tuple[str, int], Any] = {
        ("baseline", 0): [rows(1)],
        ("student", 0): [rows(1, column=column)],
    }
    assert timed_curves(trainings, devices, workers=0, taught_s=0) is None


def test_an_evaluation_that_had_nothing_to_measure_is_left_out_and_its_time_counted() -> None:
    first: list[dict[str, float | None]] = [{"processor_seconds": 2.0, "AP": None}]
    found = timed_curves({("student", 0): [first, rows(1)]}, ["cpu"], workers=0, taught_s=0)
    assert found is not None
    assert found.curves[0].points == ((3.0, 0.1),)
