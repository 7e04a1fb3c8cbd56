"""Time one engine: its inputs in rotation, and the time of every call."""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing.clocks import ClockWatch, Span
from export.backends.interface import DeviceEngine, EventTimed
from export.engine import Engine, detect, place
from export.errors import ExportError
from export.pictures.images import Images, to_input

# An engine on a device of its own is warmed up and measured for longer: clocks rise, kernels are
# chosen at first use, and calls are short.
DEVICE_WARMUP_CALLS, DEVICE_WARMUP_S = 20, 0.2
DEVICE_CALLS, DEVICE_S = 300, 3.0  # of each scope


@dataclass
class Contender:
    """One open engine and its times so far.

    Attributes:
        tensors: inputs of the scopes without pre-processing, a batch each.
        photographs: inputs of the end-to-end scope, B decoded pictures each.
        calls: per block and scope, set by `warm_up`.
        spent_s: seconds inside timed calls, warm-up included.
        model_blocks: milliseconds of each call without copies, by block; empty on the CPU, where
            nothing is copied, and for engines that cannot run without copies.
        engine_blocks: milliseconds of each call with the copies to the device and back.
        end_to_end_blocks: milliseconds of each call from photograph to boxes.
        spans: the clocks before and after each block, by scope.
    """

    engine: Engine
    tensors: list[Images]
    photographs: list[list[NDArray[np.uint8]]]
    score_threshold: float
    calls: int = 0
    spent_s: float = 0.0
    turn: int = 0
    model_blocks: list[tuple[float, ...]] = field(default_factory=list)
    engine_blocks: list[tuple[float, ...]] = field(default_factory=list)
    end_to_end_blocks: list[tuple[float, ...]] = field(default_factory=list)
    spans: dict[str, list[Span]] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls,
        engine: Engine,
        photographs: Sequence[NDArray[np.uint8]],
        batch: int,
        score_threshold: float,
    ) -> "Contender":
        """Group photographs into batches and make their tensors before timing.

        Raises:
            ExportError: the graph takes one picture per call, `batch` is more.
        """
        spec = engine.manifest.input
        if batch > 1 and not spec.dynamic_batch:
            raise ExportError(
                f"{engine.manifest.artifact or engine.manifest.model}: takes one picture per "
                f"call, the benchmark's batch is {batch}; export it with a dynamic batch or set 1"
            )
        count = len(photographs)
        groups = [
            [photographs[(start + offset) % count] for offset in range(batch)]
            for start in range(0, count, batch)
        ]
        tensors = [
            to_input([place(pixels, spec).canvas for pixels in group], spec) for group in groups
        ]
        return cls(engine, tensors, groups, score_threshold)

    @property
    def device(self) -> str:
        """Where the engine computes."""
        return self.engine.device

    @property
    def resident(self) -> DeviceEngine | None:
        """The engine, if it can run without copies."""
        if self.device == "cpu" or not isinstance(self.engine, DeviceEngine):
            return None
        return self.engine

    def warm_up(self, warmup: int, blocks: int, calls: int, limit_s: float | None) -> None:
        """Call every scope `warmup` times; allow `calls` per block, or as many as fit the limit.

        A quarter of the limit ends the warm-up after three rounds. On a device of its own an
        engine gets more of both, see `DEVICE_CALLS`.
        """
        rounds: list[float] = []
        on_device = self.device != "cpu"
        if on_device:
            warmup = max(warmup, DEVICE_WARMUP_CALLS)
        while len(rounds) < warmup or (on_device and self.spent_s < DEVICE_WARMUP_S):
            before = self.spent_s
            for _, _, block in self._scopes():
                block(1)
            rounds.append(self.spent_s - before)
            if limit_s is not None and self.spent_s > limit_s / 4 and len(rounds) >= 3:
                break
        typical_s = max(float(np.median(rounds[len(rounds) // 2 :])), 1e-6)
        if on_device:
            typical_call_s = typical_s / len(self._scopes())
            enough = max(DEVICE_CALLS, DEVICE_S / typical_call_s)
            calls = max(calls, math.ceil(enough / blocks))
        self.calls = calls
        if limit_s is not None:
            affordable = int((limit_s - self.spent_s) / (blocks * typical_s))
            self.calls = max(1, min(calls, affordable))

    def exhausted(self, limit_s: float | None) -> bool:
        """Whether a very slow engine is far beyond its time; two blocks are always measured."""
        if limit_s is None or len(self.engine_blocks) < 2:
            return False
        return self.spent_s > 1.5 * limit_s

    def round(self, watch: ClockWatch, *, engine_first: bool) -> None:
        """Time one block of each scope, after a call that is not timed.

        Threads of the engine before may still spin, and its data fill the cache.
        """
        scopes = self._scopes()
        for name, blocks, block in scopes if engine_first else reversed(scopes):
            block(1)
            before = watch.read()
            blocks.append(block(self.calls))
            self.spans.setdefault(name, []).append((before, watch.read()))

    def _scopes(
        self,
    ) -> list[tuple[str, list[tuple[float, ...]], Callable[[int], tuple[float, ...]]]]:
        """Return name, finished blocks and the function that times a block, for each scope."""
        scopes = [
            ("engine", self.engine_blocks, lambda calls: self._block(self._call_engine, calls)),
            (
                "end_to_end",
                self.end_to_end_blocks,
                lambda calls: self._block(self._call_end_to_end, calls),
            ),
        ]
        resident = self.resident
        if resident is not None:
            scopes.insert(
                0, ("model", self.model_blocks, lambda calls: self._block_on(resident, calls))
            )
        return scopes

    def _call_engine(self) -> None:
        self.engine.candidates(self.tensors[self.turn % len(self.tensors)])
        self.turn += 1

    def _call_end_to_end(self) -> None:
        photographs = self.photographs[self.turn % len(self.photographs)]
        detect(self.engine, photographs, self.score_threshold)
        self.turn += 1

    def _block(self, call: Callable[[], None], calls: int) -> tuple[float, ...]:
        with _no_collection():
            times = tuple(_timed_ms(call) for _ in range(calls))
        self.spent_s += sum(times) / 1e3
        return times

    def _block_on(self, engine: DeviceEngine, calls: int) -> tuple[float, ...]:
        """Time passes on batches that were copied to the device before timing.

        The device's clock is used if it has one: the host's would include waiting.
        """

        def call() -> None:
            engine.enqueue()
            engine.synchronize()

        timed_ms = engine.pass_ms if isinstance(engine, EventTimed) else partial(_timed_ms, call)
        times = []
        with _no_collection():
            for _ in range(calls):
                engine.upload(self.tensors[self.turn % len(self.tensors)])
                engine.synchronize()
                self.turn += 1
                times.append(timed_ms())
        self.spent_s += sum(times) / 1e3
        return tuple(times)


def _timed_ms(call: Callable[[], None]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable garbage collection during the block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
