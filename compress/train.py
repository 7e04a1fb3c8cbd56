"""The training loop: sum named scalars, step, look now and then, and be able to go on."""

import contextlib
import csv
import hashlib
import io
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress.batch import Batch
from compress.checkpoint import load_checkpoint, save_checkpoint
from compress.console import Console
from compress.ema import Ema
from compress.optim import TrainConfig, build_optimizer, learning_rate_factor, set_learning_rate
from export.atomic import write_text
from export.errors import DivergedError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

AGREE_EVERY = 8  # steps between the processes' questions to each other

Row = dict[str, float | int | None]
Evaluate = Callable[[nn.Module], dict[str, float | None]]


@dataclass(frozen=True)
class Trained:
    """What a finished training leaves.

    Attributes:
        state: the student's weights to ship, on the CPU (the averaged ones under EMA).
        rows: one per evaluation: step, seconds, learning_rate, the metrics, and the mean of every
            loss term since the one before.
        steps: optimiser steps taken.
        seconds: of training itself, evaluations and checkpoints left out.
        stopped: why it ended before its last step, or "".
    """

    state: dict[str, Tensor]
    rows: list[Row]
    steps: int
    seconds: float
    stopped: str


def train(
    objective: nn.Module,
    batches: Callable[[int, int], Iterator[Batch]],
    config: TrainConfig,
    total: int,
    live: Path,
    evaluate: Evaluate,
    *,
    fabric: "Fabric",
    seed: int,
    console: Console,
    what: str,
) -> Trained:
    """Minimise the sum of `objective(batch)` over `total` optimiser steps.

    `objective.student` is what gets evaluated and shipped. `batches(first, count)` must give the
    same batch for the same number whenever asked. Progress lives in `live`: a run that was cut,
    started again with the same arguments, goes on from there and ends as if it had not been cut.

    Raises:
        DivergedError: a loss or gradient is not finite; names step, term and pictures.
        KeyboardInterrupt: after the first Ctrl-C, once the state is saved; a second quits at once.
    """
    live.mkdir(parents=True, exist_ok=True)
    loop = _Loop(objective, config, total, live, evaluate, fabric, seed, console, what)
    with _interruptible(console) as interrupted:
        return loop.run(batches, interrupted)


class _Loop:
    """The state of one training run, and the few things done with it."""

    def __init__(
        self,
        objective: nn.Module,
        config: TrainConfig,
        total: int,
        live: Path,
        evaluate: Evaluate,
        fabric: "Fabric",
        seed: int,
        console: Console,
        what: str,
    ) -> None:
        self.config, self.total, self.live, self.evaluate = config, total, live, evaluate
        self.fabric, self.seed, self.console, self.what = fabric, seed, console, what
        objective.to(fabric.device)
        if config.channels_last:
            objective.to(memory_format=torch.channels_last)
        self.raw = objective
        optimizer = build_optimizer(objective, config)
        self.objective, self.optimizer = fabric.setup(objective, optimizer)
        self.student: nn.Module = objective.student  # type: ignore[assignment]
        self.ema = Ema(self.student, config.ema) if config.ema else None
        self.step = 0
        self.seconds = 0.0
        self.rows: list[Row] = []
        self.sums: dict[str, float] = {}
        self.summed = 0
        self.best: dict[str, Tensor] | None = None
        self.best_ap = -1.0
        self.stale = 0
        self._resume()

    # -- state ---------------------------------------------------------------------------------

    def _resume(self) -> None:
        state = load_checkpoint(self.live / "last.pt", self.fabric.device)
        if state is None:
            return
        self.raw.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.model.load_state_dict(state["ema"])
            self.ema.updates = state["ema_updates"]
        self.step, self.seconds = state["step"], state["seconds"]
        self.rows, self.sums = json.loads(state["rows"]), json.loads(state["sums"])
        self.summed, self.best, self.best_ap = state["summed"], state["best"], state["best_ap"]
        self.stale = state["stale"]
        torch.set_rng_state(state["rng"].cpu())
        self.console.say(f"{self.what}: going on from step {self.step} of {self.total}")

    def _save(self) -> None:
        if self.fabric.global_rank == 0:
            state: dict[str, Any] = {
                "objective": self.raw.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.fabric.strategy.precision.state_dict(),
                "ema": self.ema.model.state_dict() if self.ema else None,
                "ema_updates": self.ema.updates if self.ema else 0,
                "step": self.step,  # the sampler is a pure function of seed and step
                "seconds": self.seconds,
                "rows": json.dumps(self.rows),
                "sums": json.dumps(self.sums),
                "summed": self.summed,
                "best": self.best,
                "best_ap": self.best_ap,
                "stale": self.stale,
                "rng": torch.get_rng_state(),
            }
            save_checkpoint(state, self.live / "last.pt")
        self.fabric.barrier()

    # -- the loop ------------------------------------------------------------------------------

    def run(
        self, batches: Callable[[int, int], Iterator[Batch]], interrupted: list[int]
    ) -> Trained:
        """Train from where the state stands to the end."""
        accumulate = self.config.accumulate
        looks = {round(self.total * k / self.config.evaluations) for k in _upto(self.config)}
        stream = batches(self.step * accumulate, (self.total - self.step) * accumulate)
        saved = time.monotonic()
        stopped = self._reason_to_stop(self._budget_spent()) if self.step else ""
        with (
            contextlib.closing(_closable(stream)) as feed,
            _events(self.live, self.step, self.fabric.global_rank) as events,
            self.console.progress(self.what, self.total, self.step) as progress,
        ):
            while self.step < self.total and not stopped:
                loss = self._take_step(feed)
                progress.update(self.step, f"loss {loss:.3f}{self._ap()}")
                spent = self._agree(self._budget_spent())
                late = self._agree(time.monotonic() - saved > self.config.checkpoint_every_s)
                leaving = self._agree(bool(interrupted))
                if self.step in looks or spent:
                    self._look(events)
                    stopped = self._reason_to_stop(spent)
                if self.step in looks or spent or late or leaving:
                    self._save()
                    saved = time.monotonic()
                if leaving:
                    raise KeyboardInterrupt
        if stopped:
            self.console.say(f"{self.what}: stopped at step {self.step}: {stopped}")
        return Trained(self._weights(), self.rows, self.step, self.seconds, stopped)

    def _take_step(self, feed: Iterator[Batch]) -> float:
        start = time.perf_counter()
        # Randomness depends on seed, step and rank alone, so a resumed run draws the same.
        torch.manual_seed(_mix(self.seed, self.step, self.fabric.global_rank))
        rate = self.config.lr * learning_rate_factor(self.config, self.step, self.total)
        set_learning_rate(self.optimizer, rate)
        accumulate, total = self.config.accumulate, 0.0
        for part in range(accumulate):
            batch = next(feed).to(self.fabric.device)
            if self.config.channels_last:
                batch = _channels_last(batch)
            with self.fabric.no_backward_sync(self.objective, enabled=part < accumulate - 1):
                terms: dict[str, Tensor] = self.objective(batch)
                loss = torch.stack([term.float() for term in terms.values()]).sum()
                total += self._account(terms, loss, batch) / accumulate
                self.fabric.backward(loss / accumulate)
        self._clip(batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.student)
        self.step += 1
        self.seconds += time.perf_counter() - start
        return total

    def _account(self, terms: dict[str, Tensor], loss: Tensor, batch: Batch) -> float:
        values = torch.stack(
            [t.detach().float() for t in terms.values()] + [loss.detach()]
        ).tolist()
        if not math.isfinite(values[-1]):
            bad = [n for n, v in zip(terms, values, strict=False) if not math.isfinite(v)]
            raise DivergedError(
                f"{self.what}: step {self.step + 1}: {', '.join(bad) or 'the sum of the losses'} "
                f"is not finite; pictures {', '.join(map(str, batch.image_ids[:16]))}. The last "
                f"good checkpoint is kept in {self.live}. Lower train.lr or train.clip, set "
                "train.amp: off, or lower that term's weight, under a new name"
            )
        for name, value in zip(terms, values, strict=False):
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.summed += 1
        return float(values[-1])

    def _clip(self, batch: Batch) -> None:
        if self.config.clip is None:
            return
        scaled = getattr(self.fabric.strategy.precision, "scaler", None) is not None
        norm = self.fabric.clip_gradients(
            self.objective, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False
        )
        if not scaled and norm is not None and not math.isfinite(float(norm)):
            raise DivergedError(
                f"{self.what}: step {self.step + 1}: the gradient is not finite though the losses "
                f"are; pictures {', '.join(map(str, batch.image_ids[:16]))}. The last good "
                f"checkpoint is kept in {self.live}. Lower train.lr, or set train.amp: off"
            )

    # -- looking -------------------------------------------------------------------------------

    def _look(self, events: Any) -> None:
        model = self.ema.model if self.ema is not None else self.student
        was_training = model.training
        metrics = self.evaluate(model)
        model.train(was_training)
        row: Row = {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        row |= {f"loss/{n}": v / max(1, self.summed) for n, v in self.sums.items()}
        row |= metrics
        self.rows.append(row)
        self.sums, self.summed = {}, 0
        ap = metrics.get("AP") or 0.0
        self.stale = 0 if ap > self.best_ap else self.stale + 1
        if ap > self.best_ap:
            self.best_ap = ap
            if self.config.keep == "best" or self.config.patience:
                self.best = _cpu(model.state_dict())
        if self.fabric.global_rank == 0:
            write_text(_table(self.rows), self.live / "results.csv")
            for name, value in row.items():
                if name != "step" and value is not None:
                    events.add_scalar(name, value, self.step)

    def _reason_to_stop(self, spent: bool) -> str:
        if self.config.patience and self.stale >= self.config.patience:
            return f"no better AP in {self.stale} evaluations"
        if spent:
            return f"the time budget of {self.config.time_budget_minutes:g} minutes is spent"
        return ""

    def _budget_spent(self) -> bool:
        budget = self.config.time_budget_minutes
        return budget is not None and self.seconds > budget * 60

    def _agree(self, mine: bool) -> bool:
        """Whether the first process thinks so: clocks differ, decisions must not.

        Several processes ask each other at every eighth step only, since asking costs time.
        """
        if self.fabric.world_size == 1:
            return mine
        return self.step % AGREE_EVERY == 0 and bool(self.fabric.broadcast(mine))

    def _ap(self) -> str:
        last = self.rows[-1].get("AP") if self.rows else None
        return f"  AP {100 * last:.1f}" if last is not None else ""

    def _weights(self) -> dict[str, Tensor]:
        if self.best is not None and (self.config.keep == "best" or self.config.patience):
            return self.best
        return _cpu((self.ema.model if self.ema is not None else self.student).state_dict())


def _upto(config: TrainConfig) -> range:
    return range(1, config.evaluations + 1)


def _cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _mix(seed: int, step: int, rank: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def _channels_last(batch: Batch) -> Batch:
    images = batch.images.contiguous(memory_format=torch.channels_last)
    return Batch(images, batch.targets, batch.sizes, batch.image_ids, batch.labeled)


def _closable(stream: Iterator[Batch]) -> Any:
    return stream if hasattr(stream, "close") else (batch for batch in stream)


def _table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({n: "" if v is None else v for n, v in row.items()} for row in rows)
    return text.getvalue()


@contextlib.contextmanager
def _events(live: Path, step: int, rank: int) -> Iterator[Any]:
    """A TensorBoard writer; events after `step` of a run that was cut are superseded."""
    if rank != 0:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(live), purge_step=step + 1 if step else None)
    try:
        yield writer
    finally:
        writer.close()


@contextlib.contextmanager
def _interruptible(console: Console) -> Iterator[list[int]]:
    """Turn the first SIGINT or SIGTERM into an entry of the list; the second one kills."""
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if caught:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        caught.append(number)
        console.say("stopping after this step and saving; once more to quit at once")

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: signals are somebody else's
        pass
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
