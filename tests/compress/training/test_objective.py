"""What the loop does beyond summing: separate training, idle terms, comparisons."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.batch import Batch
from compress.training.objective import Objective, SeparateTraining, Term
from export.errors import DivergedError
from tests.compress.training.test_loop import Small, endless, fit, same


class Aided(Small):
    """Small, with a helper that is trained apart."""

    def __init__(self, clip: float | None = None, decay: float = 0.0) -> None:
        super().__init__()
        self.aid = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.aid.weight)
        self.clip, self.decay = clip, decay

    def separate(self) -> list[SeparateTraining]:
        return [SeparateTraining(self.aid, lr=0.1, weight_decay=self.decay, clip=self.clip)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {**super().forward(batch), "aid/pull": self.aid.weight.square().sum()}


def test_a_separate_module_moves_by_its_own_rate_and_leaves_the_student_alone(
    tmp_path: Path,
) -> None:
    aided, alone = Aided(), Small()
    with_aid = fit(tmp_path / "a", objective=aided, clip=None, steps=2, schedule="constant")
    without = fit(tmp_path / "b", objective=alone, clip=None, steps=2, schedule="constant")
    assert same(with_aid.state, without.state)
    # AdamW moves by about its rate: 0.1 at step 0, 0.1 * (1 + cos(pi / 2)) / 2 = 0.05 at step 1
    assert aided.aid.weight.item() == pytest.approx(1 - 0.15, abs=2e-3)


@pytest.mark.slow
def test_a_run_with_a_separate_optimiser_resumes_as_if_it_had_not_been_cut(tmp_path: Path) -> None:
    whole, first, resumed = (Aided(clip=0.01) for _ in range(3))
    fit(tmp_path / "whole", objective=whole, clip=None)

    def cut(first_step: int, count: int) -> Iterator[Batch]:
        yield from endless(first_step, count - 7)
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        fit(tmp_path / "cut", cut, objective=first, clip=None, checkpoint_every_s=1e-9)
    fit(tmp_path / "cut", objective=resumed, clip=None)
    assert not torch.equal(whole.aid.weight, first.aid.weight)
    assert torch.equal(whole.aid.weight, resumed.aid.weight)


class Idle(Small):
    """Small, with a term that is 0 on all but every `alive`-th step."""

    def __init__(self, alive: int) -> None:
        super().__init__()
        self.alive, self.calls = alive, 0

    def watched(self) -> frozenset[str]:
        return frozenset({"gid"})

    def explain(self, batch: Batch) -> str:
        return f"maps of {len(batch.images)} pictures are fine"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        value = 0.0 if self.calls % self.alive else 1.0
        return {
            **super().forward(batch),
            "gid/relation": 0 * super().forward(batch)["task/size"] + value,
        }


@pytest.mark.slow
def test_a_watched_term_that_is_zero_for_fifty_steps_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError) as caught:
        fit(tmp_path, objective=Idle(alive=1000), steps=60)
    message = str(caught.value)
    assert "step 50: gid/relation has been exactly 0 for 50 steps" in message
    assert "pictures 490, 491; maps of 2 pictures are fine" in message


@pytest.mark.slow
def test_a_term_that_has_a_value_now_and_then_does_not(tmp_path: Path) -> None:
    assert fit(tmp_path, objective=Idle(alive=40), steps=100).steps == 100


class Compared(Small):
    def at(self, step: int, total: int, *, measure: bool = False) -> None:
        self.now = [Term("kd/x", step, 0.5, 2.0)] if measure and step < total else []

    def measured(self) -> list[Term]:
        return self.now


def test_terms_are_compared_every_so_many_steps_and_written_down(tmp_path: Path) -> None:
    trained = fit(tmp_path, objective=Compared(), steps=12, measure_every=5)
    assert [row["step"] for row in trained.terms] == [0, 5, 10]
    with (tmp_path / "terms.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "step": "5",
        "name": "kd/x",
        "value": "5",
        "ratio": "0.5",
        "gradient_ratio": "2.0",
    }


def test_gradients_are_clipped_by_value_when_asked(tmp_path: Path) -> None:
    class Steep(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.student = nn.Linear(1, 1, bias=False)
            nn.init.zeros_(self.student.weight)

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            del batch
            return {"task/x": -1000 * self.student.weight.sum()}

    settings: Any = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "warmup": 0.0}
    trained = fit(
        tmp_path,
        objective=Steep(),
        steps=1,
        lr=1.0,
        clip=None,
        clip_value=0.25,
        weight_decay=0.0,
        **settings,
    )
    assert trained.state["weight"].item() == pytest.approx(0.25)
