"""The loop: it resumes bit for bit, stops for good reasons and says why."""

import csv
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from compress.batch import Batch, Targets
from compress.console import Console, PlainProgress
from compress.training.ema import Ema
from compress.training.job import Batches, Trained, TrainJob
from compress.training.loop import train
from compress.training.objective import Objective
from compress.training.optim import TrainConfig
from export.errors import DivergedError, ToolkitError


class Small(Objective):
    """A student of one convolution and one BatchNorm, with noise from torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        noise = torch.rand(batch.images.shape[0], 1, 1, 1)
        return {
            "task/fit": (self.student(batch.images) - batch.images.mean() - noise).square().mean(),
            "task/size": 1e-3 * sum(p.square().sum() for p in self.student.parameters()),
        }


def batch_of(step: int, size: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(step)
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    images = torch.rand(size, 3, 6, 6, generator=generator)
    return Batch(images, (none,) * size, torch.full((size, 2), 6), (10 * step, 10 * step + 1), size)


def endless(first: int, count: int) -> Iterator[Batch]:
    return (batch_of(step) for step in range(first, first + count))


def fit(
    live: Path,
    batches: Batches = endless,
    evaluate: Callable[[nn.Module], dict[str, float | None]] | None = None,
    objective: Objective | None = None,
    precision: Any = "32-true",
    quiet: bool = True,
    **settings: object,
) -> Trained:
    config = TrainConfig.model_validate({"steps": 12, "amp": "off", "lr": 0.01, **settings})
    scores = iter(range(1, 100))
    return train(
        TrainJob(
            name="test",
            objective=objective or Small(),
            batches=batches,
            config=config,
            total=config.steps or 0,
            live=live,
            evaluate=evaluate or (lambda _model: {"AP": next(scores) / 100}),
            fabric=Fabric(accelerator="cpu", devices=1, precision=precision),
            seed=3,
            console=Console(quiet=quiet),
        )
    )


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_run_cut_anywhere_ends_as_one_that_was_not(
    tmp_path: Path, optimizer: str, ema: float | None
) -> None:
    settings: Any = {"optimizer": optimizer, "ema": ema, "checkpoint_every_s": 1e-9}
    whole = fit(tmp_path / "whole", **settings)

    class CutError(Exception):
        pass

    for cut in (1, 5, 9):

        def dying(first: int, count: int, cut: int = cut) -> Iterator[Batch]:
            for step in range(first, first + count):
                if step == cut:
                    raise CutError
                yield batch_of(step)

        with pytest.raises(CutError):
            fit(tmp_path / "cut", dying, **settings)
    resumed = fit(tmp_path / "cut", **settings)
    assert same(whole.state, resumed.state)
    assert [r["loss/task/fit"] for r in whole.rows] == [r["loss/task/fit"] for r in resumed.rows]


@pytest.mark.slow
def test_accumulating_two_batches_is_one_step_on_both(tmp_path: Path) -> None:
    class Plain(Objective):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.student = nn.Conv2d(3, 1, 3)

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return {"task/x": self.student(batch.images).square().mean()}

    def doubled(first: int, count: int) -> Iterator[Batch]:
        for step in range(first, first + count):
            pair = [batch_of(2 * step), batch_of(2 * step + 1)]
            images = torch.cat([b.images for b in pair])
            yield Batch(images, (), torch.zeros(4, 2), (0, 1, 2, 3), 4)

    halves = fit(tmp_path / "a", objective=Plain(), accumulate=2)
    wholes = fit(tmp_path / "b", doubled, objective=Plain())
    for name, value in wholes.state.items():
        torch.testing.assert_close(halves.state[name], value, rtol=1e-4, atol=1e-6)


def test_half_precision_trains_on_the_batches_of_a_dataset(tmp_path: Path) -> None:
    """Fabric takes batches apart and puts them together again, nested targets too."""
    trained = fit(tmp_path, precision="bf16-mixed")
    assert trained.steps == 12
    assert all(v.isfinite().all() for v in trained.state.values())


def test_the_time_between_two_starts_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(first: int, count: int) -> Iterator[Batch]:
        yield from endless(first, count - 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, dying, checkpoint_every_s=1e-9, evaluations=3)
    clocks = ("perf_counter", "process_time")
    before = {name: getattr(time, name) for name in clocks}
    for name, clock in before.items():
        monkeypatch.setattr(time, name, lambda clock=clock: clock() + 1000)
    rows = fit(tmp_path, evaluations=3).rows
    for column in ("seconds", "processor_seconds"):
        spent = [row[column] or 0.0 for row in rows]
        assert len(spent) == 3
        assert 0 < spent[0] < spent[1] < spent[2] < 100


def test_processor_time_that_is_known_of_later_steps_alone_is_not_stated(tmp_path: Path) -> None:
    def dying(first: int, count: int) -> Iterator[Batch]:
        yield from endless(first, count - 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, dying, checkpoint_every_s=1e-9, evaluations=3)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    del state["processor_seconds"]  # as checkpoints of earlier versions
    torch.save(state, tmp_path / "last.pt")
    rows = fit(tmp_path, evaluations=3).rows
    assert ["processor_seconds" in row for row in rows] == [True, True, False]


def test_a_loss_that_is_not_finite_names_step_term_and_pictures(tmp_path: Path) -> None:
    def poisoned(first: int, count: int) -> Iterator[Batch]:
        for step in range(first, first + count):
            batch = batch_of(step)
            if step == 4:
                batch.images.fill_(math.nan)
            yield batch

    with pytest.raises(DivergedError) as caught:
        fit(tmp_path, poisoned, checkpoint_every_s=1e-9)
    message = str(caught.value)
    assert "step 5: task/fit is not finite; pictures 40, 41" in message
    kept = torch.load(tmp_path / "last.pt", weights_only=True)
    assert kept["step"] == 4
    assert all(v.isfinite().all() for v in kept["objective"].values())


def test_it_stops_when_ap_no_longer_rises_and_ships_the_best(tmp_path: Path) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.25, 0.9])
    seen: list[Tensor] = []

    def evaluate(model: nn.Module) -> dict[str, float | None]:
        seen.append(next(model.parameters()).detach().clone())
        return {"AP": next(scores)}

    trained = fit(tmp_path, evaluate=evaluate, evaluations=6, patience=2)
    assert trained.steps == 8
    assert "no better AP in 2 evaluations" in trained.stopped
    assert torch.equal(trained.state["0.weight"], seen[1])


def test_a_time_budget_ends_the_run(tmp_path: Path) -> None:
    def slow(first: int, count: int) -> Iterator[Batch]:
        for batch in endless(first, count):
            time.sleep(0.07)
            yield batch

    trained = fit(tmp_path, slow, time_budget_minutes=0.001, evaluations=12)
    assert trained.steps == 1
    assert "time budget" in trained.stopped


def test_every_evaluation_is_a_row_of_results_csv(tmp_path: Path) -> None:
    fit(tmp_path, evaluations=3)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    assert set(rows[0]) == {
        "step",
        "seconds",
        "processor_seconds",
        "learning_rate",
        "loss/task/fit",
        "loss/task/size",
        "AP",
    }


def test_the_last_line_of_progress_has_the_last_ap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlainProgress, "every_s", 0.0)
    fit(tmp_path, evaluations=2, quiet=False)
    lines = [line.split("  (about")[0] for line in capsys.readouterr().err.splitlines()]
    assert [line.partition("AP ")[2] for line in lines] == [
        *[""] * 5,
        "1.0",
        *["1.0 at 6"] * 5,
        "2.0",
    ]


def test_ema_follows_with_a_decay_that_warms_up() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    ema = Ema(model, decay=0.9)
    nn.init.constant_(model.weight, 1.0)
    ema.update(model)  # decay is (1 + 1) / (10 + 1)
    assert next(ema.model.parameters()).item() == pytest.approx(1 - 2 / 11)


def test_a_checkpoint_holds_tensors_numbers_and_text_only(tmp_path: Path) -> None:
    fit(tmp_path, ema=0.9)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert {"objective", "optimizer", "ema", "scaler", "step", "rng", "rows"} <= set(state)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_one_message(tmp_path: Path) -> None:
    fit(tmp_path)
    path = tmp_path / "last.pt"
    whole = path.read_bytes()
    torch.save({"step": 3}, path)
    other = path.read_bytes()
    place = whole.index(b"data/0") + 200  # inside a tensor
    flipped = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
    for content in (b"", whole[: len(whole) // 2], b"{}", flipped, other):
        path.write_bytes(content)
        with pytest.raises(ToolkitError, match=r"damaged.*delete it to begin this training again"):
            fit(tmp_path)
    path.write_bytes(whole)
    assert fit(tmp_path).steps == 12
