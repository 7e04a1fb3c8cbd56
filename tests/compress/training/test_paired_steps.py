"""Steps of two trainings, timed in turns."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.batch import Batch, Targets
from compress.console import Console
from compress.stages.session import Session
from compress.training.job import TrainJob
from compress.training.objective import Objective
from compress.training.optim import TrainConfig
from compress.training.paired_steps import Part, Samples, parts_of, step_ratio, time_in_turns

CPU = torch.device("cpu")


class Costly(Objective):
    """Spends processor time, and time in which it only waits, in every step."""

    def __init__(self, busy_ms: float, waits_ms: float = 0.0) -> None:
        super().__init__()
        self.student = nn.BatchNorm2d(3)
        self.busy_ms, self.waits_ms = busy_ms, waits_ms
        self.asked: list[int] = []

    def at(self, step: int, total: int, *, measure: bool = False) -> None:
        assert total == 100
        assert not measure
        self.asked.append(step)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        end = time.process_time() + self.busy_ms / 1000
        while time.process_time() < end:
            pass
        time.sleep(self.waits_ms / 1000)
        return {"task/loss": self.student(batch.images).square().mean() + 1}


def job(objective: Objective, tmp_path: Path) -> TrainJob:
    one = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))

    def batches(first: int, count: int) -> Iterator[Batch]:
        for number in range(first, first + count):
            yield Batch(torch.rand(2, 3, 4, 4), (one, one), torch.full((2, 2), 4), (number,), 2)

    return TrainJob(
        name="student",
        objective=objective,
        batches=batches,
        config=TrainConfig(steps=100, batch=2, amp="off", lr=1.0, measure_every=1),
        total=100,
        live=tmp_path / "timed",
        evaluate=lambda _: {},
        fabric=Session(tmp_path, "cpu", Console(quiet=True)).fabric("32-true"),
        seed=0,
        console=Console(quiet=True),
    )


@pytest.mark.slow
def test_the_ratio_is_that_of_processor_time_and_waiting_costs_nothing(tmp_path: Path) -> None:
    plain, taught = Costly(busy_ms=8.0, waits_ms=16.0), Costly(busy_ms=24.0)
    samples = time_in_turns(job(plain, tmp_path), job(taught, tmp_path), [Part(7, 100)])
    found = step_ratio(samples, CPU)
    low, high = found.ci95
    assert 1.8 < low <= found.ratio <= high < 3.1  # 24 / 8, less what a step costs by itself
    assert {*plain.asked, *taught.asked} == {7}
    assert not (tmp_path / "timed").exists()


def test_timing_moves_no_weight_of_a_student(tmp_path: Path) -> None:
    plain, taught = Costly(0.0), Costly(0.0)
    time_in_turns(job(plain, tmp_path), job(taught, tmp_path), [Part(0, 1)], most=3)
    for objective in (plain, taught):
        weight, bias = objective.student.parameters()
        assert torch.equal(weight, torch.ones(3))
        assert torch.equal(bias, torch.zeros(3))


def test_a_schedule_is_divided_into_steps_of_equal_cost() -> None:
    parts = parts_of(10, lambda step: (step < 2, step % 5 == 4))
    assert parts == [Part(1, 2), Part(6, 6), Part(9, 2)]


def test_parts_count_by_their_steps() -> None:
    samples = [
        Samples("student", Part(0, 30), (10.0,) * 9, (10.0,) * 9),
        Samples("student", Part(50, 70), (10.0,) * 9, (20.0,) * 9),
    ]
    found = step_ratio(samples, CPU)
    assert found.ratio == pytest.approx(0.3 * 1 + 0.7 * 2)
    assert list(found.ci95) == pytest.approx([1.7, 1.7])
    assert found.plain_steps(200) == 340
    assert "costs 1.700 [1.700, 1.700] times a plain one (17 ms to 10 ms; 18 ro" in found.sentence()


def test_the_interval_covers_rounds_that_differ() -> None:
    taught = (12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 50.0)  # one of them was disturbed
    found = step_ratio([Samples("student", Part(0, 4), (10.0,) * 8, taught)], CPU)
    assert found.ratio == pytest.approx(1.55)
    assert found.ci95[0] < 1.45
    assert 1.65 < found.ci95[1] < 2.0


@pytest.mark.gpu
def test_on_a_gpu_the_time_between_events_counts(tmp_path: Path) -> None:
    class Multiplies(Costly):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            wide = torch.ones(1024, 1024, device=batch.images.device)
            for _ in range(int(self.busy_ms)):
                wide = wide @ wide / 1024
            return {"task/loss": self.student(batch.images).mean() + wide.mean() + 1}

    def on_gpu(objective: Objective) -> TrainJob:
        fabric = Session(tmp_path, "cuda", Console(quiet=True)).fabric("32-true")
        return replace(job(objective, tmp_path), fabric=fabric)

    jobs = on_gpu(Multiplies(200.0)), on_gpu(Multiplies(600.0))
    found = step_ratio(time_in_turns(*jobs, [Part(0, 4)]), torch.device("cuda"))
    assert 2.0 < found.ratio < 3.5
    assert found.clock == "time between CUDA events"
