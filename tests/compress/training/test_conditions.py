"""A training that is resumed under other conditions says that it is no longer exact."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compress.batch import Batch
from compress.training.conditions import Conditions, as_json, changes, conditions_of, continued
from compress.training.job import Trained
from tests.compress.training.test_loop import batch_of, fit

ONE = Conditions(0, "cpu", 1, "2.4.0", "Xeon")


class CutError(Exception):
    pass


def cut_at(step: int, live: Path) -> None:
    def dying(first: int, count: int) -> Iterator[Batch]:
        for number in range(first, first + count):
            if number == step:
                raise CutError
            yield batch_of(number)

    with pytest.raises(CutError):
        fit(live, dying, checkpoint_every_s=1e-9)


def resumed_with(threads: int, live: Path) -> Trained:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return fit(live, checkpoint_every_s=1e-9)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_equal_conditions_are_noted_once(tmp_path: Path) -> None:
    cut_at(5, tmp_path)
    trained = fit(tmp_path, checkpoint_every_s=1e-9)
    assert trained.conditions == (conditions_of(torch.device("cpu")),)
    assert changes(trained.conditions) == []


@pytest.mark.slow
def test_another_count_of_threads_is_told_and_kept(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    cut_at(5, tmp_path)
    trained = resumed_with(threads + 1, tmp_path)
    assert [(one.from_step, one.threads) for one in trained.conditions] == [
        (0, threads),
        (5, threads + 1),
    ]
    (said,) = changes(trained.conditions)
    assert said.startswith(f"resumed at step 5 with {threads + 1} threads (before: with {threads} ")
    assert "no longer bit for bit" in said


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"threads": 2}, "resumed with 2 threads, interrupted with 1 thread: "),
        ({"torch": "2.5.0"}, "resumed with torch 2.5.0, interrupted with torch 2.4.0: "),
        ({"processor": "EPYC"}, "resumed on EPYC, interrupted on Xeon: "),
        ({"device": "cuda", "threads": 0}, "resumed on cuda, interrupted on cpu: "),
    ],
)
def test_every_change_is_named(other: dict[str, object], said: str) -> None:
    now = replace(ONE, from_step=7, **other)  # type: ignore[arg-type]
    known, warning = continued(as_json([ONE]), now)
    assert known == [ONE, now]
    assert warning.startswith(said)


def test_conditions_without_a_step_leave_no_trace() -> None:
    two = replace(ONE, from_step=7, threads=2)
    known, _ = continued(as_json([ONE, two]), replace(ONE, from_step=7))
    assert known == [ONE]


def test_a_checkpoint_of_an_earlier_version_has_no_conditions_to_compare() -> None:
    now = replace(ONE, from_step=7)
    assert continued("[]", now) == ([now], "")
