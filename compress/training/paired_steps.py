"""Time distilled and plain training steps alternately in one process."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.timing.step_ratio import PartRatio, StepRatio
from compress.training.job import TrainJob
from compress.training.loop import Loop, closable

CYCLE = 4  # different batches of the rounds; the first pass over them warms up
FEWEST, MOST = 10, 30  # rounds that count
ENOUGH = 0.02  # half of the interval's width over the ratio, at which measuring ends
RESAMPLES = 1000

Draws = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Steps of equal cost of one training.

    Attributes:
        step: a step of the part, at which it is timed.
        steps: number of its steps.
    """

    step: int
    steps: int


@dataclass(frozen=True)
class Samples:
    """Milliseconds of one part, round by round."""

    name: str
    part: Part
    plain: tuple[float, ...]
    distilled: tuple[float, ...]


def parts_of(total: int, phase: Callable[[int], object]) -> list[Part]:
    """Divide `total` steps by `phase`; each part is represented by the middle one of its steps."""
    found: dict[object, list[int]] = {}
    for step in range(total):
        found.setdefault(phase(step), []).append(step)
    return [Part(steps[len(steps) // 2], len(steps)) for steps in found.values()]


def time_in_turns(
    plain: TrainJob,
    distilled: TrainJob,
    parts: Sequence[Part],
    *,
    most: int = MOST,
) -> list[Samples]:
    """Time steps of two trainings alternately; return the samples of every part.

    The jobs must hold temporary objectives, whose BatchNorm statistics and adapters change; the
    students' weights do not, as the learning rate is 0. Comparisons with the task loss
    (`measure_every`) are left out; random state is seeded, so the caller restores it. Every process
    of a distributed run must call this, as the losses may communicate; the first one's clock
    decides when to end.
    """
    jobs = [_at_rest(plain), _at_rest(distilled)]
    loops = [Loop(job) for job in jobs]
    return [_time_part(jobs, loops, part, most) for part in parts]


def _at_rest(job: TrainJob) -> TrainJob:
    return replace(job, config=job.config.model_copy(update={"lr": 0.0, "measure_every": 0}))


def _time_part(jobs: Sequence[TrainJob], loops: Sequence[Loop], part: Part, most: int) -> Samples:
    fabric, name = jobs[0].fabric, jobs[1].name
    batches = (CYCLE + most) * jobs[0].config.accumulate
    times: tuple[list[float], list[float]] = ([], [])
    with (
        closing(closable(jobs[0].batches(0, batches))) as first,
        closing(closable(jobs[1].batches(0, batches))) as second,
    ):
        feeds = (first, second)
        for turn in range(CYCLE + most):
            for side in (0, 1) if turn % 2 else (1, 0):
                loop = loops[side]
                loop.step, loop.idle = part.step, {}
                elapsed = milliseconds(fabric.device, partial(loop.take_step, feeds[side]))
                if turn >= CYCLE:
                    times[side].append(elapsed)
            if len(times[0]) >= FEWEST:
                done = _narrow(Samples(name, part, tuple(times[0]), tuple(times[1])))
                if fabric.world_size > 1:
                    done = bool(fabric.broadcast(done))
                if done:
                    break
    return Samples(name, part, tuple(times[0]), tuple(times[1]))


def milliseconds(device: torch.device, work: Callable[[], object]) -> float:
    """Return the cost of `work` in ms: time between events on a GPU, else processor time."""
    if device.type == "cuda":
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record(torch.cuda.current_stream(device))
        work()
        end.record(torch.cuda.current_stream(device))
        end.synchronize()
        return float(start.elapsed_time(end))
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began)


def _narrow(samples: Samples) -> bool:
    low, high = _interval(_draws(samples))
    return high - low <= 2 * ENOUGH * _ratio(samples)


def step_ratio(samples: Sequence[Samples], device: torch.device) -> StepRatio:
    """Summarise the samples of all parts of a training.

    The interval covers the rounds: the load on the machine and the choice of batches.
    """
    parts = [
        PartRatio(
            name=one.name,
            steps=one.part.steps,
            ratio=_ratio(one),
            ci95=_interval(_draws(one)),
            rounds=len(one.plain),
            plain_ms=float(np.median(one.plain)),
            distilled_ms=float(np.median(one.distilled)),
        )
        for one in samples
    ]
    weights = np.array([part.steps for part in parts], dtype=np.float64)
    weights /= weights.sum()
    draws = np.stack([_draws(one, seed) for seed, one in enumerate(samples)])
    threads = torch.get_num_threads()
    clock = "time between CUDA events"
    if device.type != "cuda":
        work = "its thread" if threads == 1 else f"all its {threads} threads"
        clock = f"processor time of the process, {work} and the loading included"
    return StepRatio(
        ratio=float(weights @ [part.ratio for part in parts]),
        ci95=_interval(weights @ draws),
        clock=clock,
        device=device.type,
        threads=threads,
        parts=tuple(parts),
    )


def _ratio(samples: Samples) -> float:
    return float(np.median(np.divide(samples.distilled, samples.plain)))


def _draws(samples: Samples, seed: int = 0) -> Draws:
    """Return the ratio of resampled rounds, (RESAMPLES,)."""
    ratios = np.divide(samples.distilled, samples.plain)
    chosen = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    return np.asarray(np.median(ratios[chosen], axis=1))


def _interval(draws: Draws) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
