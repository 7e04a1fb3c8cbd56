"""Training loop: minimise the summed terms, evaluate periodically, resume exactly."""

import contextlib
import json
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from compress.batch import Batch
from compress.detector import Detector
from compress.parts.batch_norm import over_processes
from compress.parts.draws import seed_torch, step_seed
from compress.parts.processes import ids_of_batch, mean_over_processes
from compress.tracking.tracker import Log
from compress.training.backbone_stages import hold
from compress.training.checkpoint import Checkpoint, load_checkpoint, restoring, save_checkpoint
from compress.training.conditions import Conditions, as_json, conditions_of, continued
from compress.training.ema import Ema
from compress.training.interrupt import interruptible
from compress.training.job import Row, Trained, TrainJob
from compress.training.optim import (
    build_optimizer,
    build_separate,
    learning_rate_factor,
    set_learning_rate,
)
from compress.training.records import table
from export.atomic import write_text
from export.errors import DivergedError, counted

AGREE_EVERY = 8  # steps between synchronisations of the stop conditions
IDLE_STEPS = 50  # steps at exactly 0 after which a distillation term is an error


def train(job: TrainJob) -> Trained:
    """Minimise the sum of `job.objective(batch)` over `job.total` optimiser steps.

    A run that was interrupted and is started again with an equal job resumes from `job.live` and
    ends with the same weights as an uninterrupted one.

    Raises:
        DivergedError: a loss or gradient is not finite, or a distillation term is exactly 0 for
            50 steps; names step, term, pyramid level and pictures.
        KeyboardInterrupt: after the first Ctrl-C, once the state is saved; a second quits at once.
    """
    job.live.mkdir(parents=True, exist_ok=True)
    loop = Loop(job)
    with interruptible(job.console) as interrupted:
        return loop.run(interrupted)


class Loop:
    """The state of one training run: restore, step, evaluate, save."""

    def __init__(self, job: TrainJob) -> None:
        self.job, self.config, self.fabric = job, job.config, job.fabric
        objective, config, fabric = job.objective, job.config, job.fabric
        objective.to(fabric.device)
        if isinstance(objective.student, Detector):
            hold(objective.student, config.freeze_at, norm_eval=config.norm_eval)
        for line in over_processes(objective, fabric.device):
            job.console.warn(f"{job.name}: {line}")
        if config.channels_last:
            objective.to(memory_format=torch.channels_last)
        self.raw = objective
        self.separate = objective.separate()
        optimizer = build_optimizer(objective, config, self.separate)
        apart = [build_separate(one) for one in self.separate]
        self.objective, self.optimizer, *self.apart = fabric.setup(objective, optimizer, *apart)
        self.student = objective.student
        self.ema = Ema(self.student, config.ema) if config.ema else None
        self.step = 0
        self.seconds = 0.0
        # None after a resumption from a checkpoint that did not record it
        self.processor_seconds: float | None = 0.0
        self.rows: list[Row] = []
        self.terms: list[dict[str, Any]] = []
        self.idle: dict[str, int] = {}
        self.sums: dict[str, float] = {}
        self.summed = 0
        self.best: dict[str, Tensor] | None = None
        self.best_ap = -1.0
        self.stale = 0
        self.conditions: list[Conditions] = [conditions_of(fabric.device)]
        self._resume()

    # -- state ---------------------------------------------------------------------------------

    def _resume(self) -> None:
        path, name = self.job.live / "last.pt", self.job.name
        state = load_checkpoint(path, self.fabric.device)
        if state is None:
            return
        with restoring(path):
            self._restore(state)
        self.job.console.print(f"{name}: resuming from step {self.step} of {self.job.total}")
        now = conditions_of(self.fabric.device, self.step)
        self.conditions, changed = continued(state.get("conditions", "[]"), now)
        if changed:
            self.job.console.warn(f"{name}: {changed}")

    def _restore(self, state: Checkpoint) -> None:
        self.raw.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        for optimizer, saved in zip(self.apart, state["separate"], strict=True):
            optimizer.load_state_dict(saved)
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        if self.ema is not None and state["ema"] is not None:
            self.ema.model.load_state_dict(state["ema"])
            self.ema.updates = state["ema_updates"]
        self.step, self.seconds = state["step"], state["seconds"]
        self.processor_seconds = state.get("processor_seconds")
        self.rows, self.sums = json.loads(state["rows"]), json.loads(state["sums"])
        self.terms, self.idle = json.loads(state["terms"]), json.loads(state["idle"])
        self.summed, self.best, self.best_ap = state["summed"], state["best"], state["best_ap"]
        self.stale = state["stale"]
        torch.set_rng_state(state["rng"].cpu())

    def _save(self) -> None:
        if self.fabric.global_rank == 0:
            state: Checkpoint = {
                "objective": self.raw.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "separate": [optimizer.state_dict() for optimizer in self.apart],
                "scaler": self.fabric.strategy.precision.state_dict(),
                "ema": self.ema.model.state_dict() if self.ema else None,
                "ema_updates": self.ema.updates if self.ema else 0,
                "step": self.step,  # the sampler is a pure function of seed and step
                "seconds": self.seconds,
                "processor_seconds": self.processor_seconds,
                "rows": json.dumps(self.rows),
                "sums": json.dumps(self.sums),
                "terms": json.dumps(self.terms),
                "idle": json.dumps(self.idle),
                "summed": self.summed,
                "best": self.best,
                "best_ap": self.best_ap,
                "stale": self.stale,
                "rng": torch.get_rng_state(),
                "conditions": as_json(self.conditions),
            }
            save_checkpoint(state, self.job.live / "last.pt")
        self.fabric.barrier()

    # -- the loop ------------------------------------------------------------------------------

    def run(self, interrupted: list[int]) -> Trained:
        """Train from where the state stands to the end."""
        accumulate = self.config.accumulate
        evaluations, total = self.config.evaluations, self.job.total
        looks = {round(total * k / evaluations) for k in range(1, evaluations + 1)}
        stream = self.job.batches(self.step * accumulate, (self.job.total - self.step) * accumulate)
        saved = time.monotonic()
        stopped = self._reason_to_stop(self._budget_spent()) if self.step else ""
        with (
            contextlib.closing(closable(stream)) as feed,
            self.job.trackers.training(self.job.name, self.step) as log,
            self.job.console.progress(self.job.name, self.job.total, self.step) as progress,
        ):
            while self.step < self.job.total and not stopped:
                loss = self.take_step(feed)
                spent = self._agree(self._budget_spent())
                late = self._agree(time.monotonic() - saved > self.config.checkpoint_every_s)
                leaving = self._agree(bool(interrupted))
                if self.step in looks or spent:
                    self._look(log)
                    stopped = self._reason_to_stop(spent)
                if self.step in looks or spent or late or leaving:
                    self._save()
                    saved = time.monotonic()
                progress.update(self.step, f"loss {loss:.3f}{self._ap()}")
                if leaving:
                    raise KeyboardInterrupt
        if stopped:
            self.job.console.print(f"{self.job.name}: stopped at step {self.step}: {stopped}")
        weights, taken = self._weights(), tuple(self.conditions)
        return Trained(weights, self.rows, self.terms, self.step, self.seconds, stopped, taken)

    def take_step(self, feed: Iterator[Batch]) -> float:
        """Take one optimiser step on the next batches of `feed`; return the loss."""
        start, own = time.perf_counter(), time.process_time()
        # Depends only on seed and step: a resumed run and every process draw the same numbers.
        seed_torch(step_seed(self.job.seed, self.step))
        rate = self.config.lr * learning_rate_factor(self.config, self.step, self.job.total)
        set_learning_rate(self.optimizer, rate)
        fall = 0.5 * (1 + math.cos(math.pi * self.step / self.job.total))
        for one, optimizer in zip(self.separate, self.apart, strict=True):
            set_learning_rate(optimizer, one.lr * fall)
        every = self.config.measure_every
        measure = bool(every) and self.step % every == 0
        self.raw.at(self.step, self.job.total, measure=measure)
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
        for optimizer in (self.optimizer, *self.apart):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if measure:
            self.terms += [{"step": self.step, **asdict(term)} for term in self.raw.measured()]
        if self.ema is not None:
            self.ema.update(self.student)
        self.step += 1
        self.seconds += time.perf_counter() - start
        if self.processor_seconds is not None:
            self.processor_seconds += time.process_time() - own
        return total

    def _account(self, terms: dict[str, Tensor], loss: Tensor, batch: Batch) -> float:
        own = torch.stack([t.detach().float() for t in terms.values()] + [loss.detach()])
        values = mean_over_processes(own).tolist()  # the whole batch's, equal in all processes
        if not math.isfinite(values[-1]):
            bad = [n for n, v in zip(terms, values, strict=False) if not math.isfinite(v)]
            raise DivergedError(
                f"{self.job.name}: step {self.step + 1}: "
                f"{', '.join(bad) or 'the sum of the losses'} is not finite; "
                f"{self._circumstances(batch)}. Lower train.lr or train.clip, set train.amp: off, "
                "or lower that term's weight, under a new name"
            )
        watched = self.raw.watched()
        for name, value in zip(terms, values, strict=False):
            self.sums[name] = self.sums.get(name, 0.0) + value
            resting = value != 0 or name.partition("/")[0] not in watched
            self.idle[name] = 0 if resting else self.idle.get(name, 0) + 1
        idle = [name for name, steps in self.idle.items() if steps >= IDLE_STEPS]
        if idle:
            raise DivergedError(
                f"{self.job.name}: step {self.step + 1}: {', '.join(idle)} has been exactly 0 for "
                f"{IDLE_STEPS} steps, so it has no effect; {self._circumstances(batch)}. Give "
                "it its inputs (boxes, instances, proposals), or set its weight to 0"
            )
        self.summed += 1
        return float(values[-1])

    def _circumstances(self, batch: Batch) -> str:
        # a collective operation: all processes stop at the same loss
        pictures = ", ".join(map(str, ids_of_batch(batch.image_ids)[:16]))
        levels = self.raw.explain(batch)
        return (
            f"pictures {pictures}{'; ' if levels else ''}{levels}. The last good checkpoint is "
            f"kept in {self.job.live}"
        )

    def _clip(self, batch: Batch) -> None:
        for one, optimizer in zip(self.separate, self.apart, strict=True):
            if one.clip is not None:
                self.fabric.clip_gradients(
                    one.module, optimizer, max_norm=one.clip, error_if_nonfinite=False
                )
        if self.config.clip_value is not None:
            self.fabric.clip_gradients(
                self.objective, self.optimizer, clip_val=self.config.clip_value
            )
        if self.config.clip is None:
            return
        scaled = getattr(self.fabric.strategy.precision, "scaler", None) is not None
        norm = self.fabric.clip_gradients(
            self.objective, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False
        )
        if not scaled and norm is not None and not math.isfinite(float(norm)):
            raise DivergedError(
                f"{self.job.name}: step {self.step + 1}: the gradient is not finite though the "
                f"losses are; {self._circumstances(batch)}. Lower train.lr, or set train.amp: off"
            )

    # -- evaluation ----------------------------------------------------------------------------

    def _look(self, log: Log) -> None:
        model = self.ema.model if self.ema is not None else self.student
        was_training = model.training
        metrics = self.job.evaluate(model)
        model.train(was_training)
        row: Row = {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if self.processor_seconds is not None:
            row["processor_seconds"] = round(self.processor_seconds, 3)
        row |= {f"loss/{n}": v / max(1, self.summed) for n, v in self.sums.items()}
        task = sum(v for n, v in self.sums.items() if n.startswith("task/"))
        row |= {
            f"ratio/{n}": v / max(task, 1e-12)
            for n, v in self.sums.items()
            if not n.startswith("task/")
        }
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
            write_text(table(self.rows), self.job.live / "results.csv")
            if self.terms:
                write_text(table(self.terms), self.job.live / "terms.csv")
        log({n: v for n, v in row.items() if n != "step" and v is not None}, self.step)
        before = self.rows[-2]["step"] if len(self.rows) > 1 else 0
        for term in self.terms:
            if term["step"] >= (before or 0):
                figures = ("ratio", "gradient_ratio")
                log({f"{figure}/{term['name']}": term[figure] for figure in figures}, term["step"])

    def _reason_to_stop(self, spent: bool) -> str:
        if self.config.patience and self.stale >= self.config.patience:
            return f"no better AP in {counted(self.stale, 'evaluation')}"
        if spent:
            return f"the time budget of {self.config.time_budget_minutes:g} minutes is used up"
        return ""

    def _budget_spent(self) -> bool:
        budget = self.config.time_budget_minutes
        return budget is not None and self.seconds > budget * 60

    def _agree(self, mine: bool) -> bool:
        """Return the first process's decision, since the processes' clocks differ.

        With several processes it is broadcast at every eighth step only, as that costs time.
        """
        if self.fabric.world_size == 1:
            return mine
        return self.step % AGREE_EVERY == 0 and bool(self.fabric.broadcast(mine))

    def _ap(self) -> str:
        """Return the last evaluation's AP in words, and its step unless it is this one."""
        last = self.rows[-1] if self.rows else {}
        ap = last.get("AP")
        if ap is None:
            return ""
        return f"  AP {100 * ap:.1f}" + ("" if last["step"] == self.step else f" at {last['step']}")

    def _weights(self) -> dict[str, Tensor]:
        if self.best is not None and (self.config.keep == "best" or self.config.patience):
            return self.best
        return _cpu((self.ema.model if self.ema is not None else self.student).state_dict())


def _cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _channels_last(batch: Batch) -> Batch:
    return batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))


def closable(stream: Iterator[Batch]) -> Generator[Batch, None, None]:
    """Return `stream` as a generator, which can be closed before its end."""
    return stream if isinstance(stream, Generator) else (batch for batch in stream)
