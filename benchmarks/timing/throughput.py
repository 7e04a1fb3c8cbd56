"""Throughput in pictures per second at several batches; measured apart from latency."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.data.image_set import ImageSet
from benchmarks.timing.contender import Contender
from benchmarks.timing.latency import BenchmarkConfig, photographs_of
from benchmarks.timing.records import Throughput
from export.engine import Engine
from export.pictures.images import Images

WARMUP = 2  # calls
LEAST = 5  # calls, however slow
INCLUSIONS = (
    "Pictures per second with copies: ready tensors in memory -> candidate boxes on the host, one "
    "call after the other; the median over calls. Rows that take one picture per call are measured "
    "at batch 1 only."
)


def sweep(
    engines: Mapping[str, Engine], images: ImageSet, config: BenchmarkConfig
) -> dict[str, list[Throughput]]:
    """Measure open engines at every batch of `config.throughput_batches` that each can take.

    At each batch the engines take turns: one after the other, then once more in reverse.

    Raises:
        DataError: there is no photograph.
    """
    found: dict[str, list[Throughput]] = {name: [] for name in engines}
    if not config.throughput_batches:
        return found
    photographs = photographs_of(images, config)
    for batch in sorted(set(config.throughput_batches)):
        able = {
            name: Contender.prepare(engine, photographs, batch, config.score_threshold)
            for name, engine in engines.items()
            if batch == 1 or engine.manifest.input.dynamic_batch
        }
        times: dict[str, list[float]] = {name: [] for name in able}
        for names in (list(able), list(reversed(able))):
            for name in names:
                contender = able[name]
                times[name] += _calls(contender.engine, contender.tensors, config.throughput_s / 2)
        for name, measured in times.items():
            call_ms = float(np.median(measured))
            found[name].append(
                Throughput(
                    batch=batch,
                    images_per_s=1e3 * batch / call_ms,
                    call_ms=call_ms,
                    n=len(measured),
                )
            )
    return found


def _calls(engine: Engine, tensors: Sequence[Images], seconds: float) -> list[float]:
    """Return the milliseconds of each call, for `seconds` in total or at least `LEAST` calls."""
    for turn in range(WARMUP):
        engine.candidates(tensors[turn % len(tensors)])
    times: list[float] = []
    while len(times) < LEAST or sum(times) < 1e3 * seconds:
        start = time.perf_counter_ns()
        engine.candidates(tensors[len(times) % len(tensors)])
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times
