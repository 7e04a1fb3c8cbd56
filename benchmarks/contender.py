"""One engine under the stopwatch: its inputs in rotation, and every call's time."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.detections import Detections, select_detections, to_photograph
from export.engine import Engine
from export.errors import ExportError
from export.images import letterbox, to_input


@dataclass
class Contender:
    """One open engine and what has been timed of it so far.

    Attributes:
        tensors: inputs of the model-only scope, (B, 3, H, W) each.
        photographs: inputs of the end-to-end scope, B decoded pictures each.
        calls: per block and scope, set by `warm_up`.
        spent_s: seconds inside timed calls, warm-up included.
        engine_blocks: milliseconds of each model-only call, block by block.
        end_to_end_blocks: likewise.
    """

    engine: Engine
    tensors: list[NDArray[np.float32]]
    photographs: list[list[NDArray[np.uint8]]]
    score_threshold: float
    calls: int = 0
    spent_s: float = 0.0
    turn: int = 0
    engine_blocks: list[tuple[float, ...]] = field(default_factory=list)
    end_to_end_blocks: list[tuple[float, ...]] = field(default_factory=list)

    @classmethod
    def prepare(
        cls,
        engine: Engine,
        photographs: Sequence[NDArray[np.uint8]],
        batch: int,
        score_threshold: float,
    ) -> "Contender":
        """Group photographs into batches and make their tensors ahead of the clock.

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

        def canvas(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
            return letterbox(pixels, spec.height, spec.width, spec.fill)[0]

        tensors = [to_input([canvas(pixels) for pixels in group], spec) for group in groups]
        return cls(engine, tensors, groups, score_threshold)

    def warm_up(self, warmup: int, blocks: int, calls: int, limit_s: float | None) -> None:
        """Call both scopes `warmup` times; allow `calls` per block, or as many as fit the limit.

        A quarter of the limit ends the warm-up after three rounds.
        """
        rounds: list[float] = []
        for _ in range(warmup):
            before = self.spent_s
            self._block(self._call_engine, 1)
            self._block(self._call_end_to_end, 1)
            rounds.append(self.spent_s - before)
            if limit_s is not None and self.spent_s > limit_s / 4 and len(rounds) >= 3:
                break
        self.calls = calls
        if limit_s is not None:
            typical_s = float(np.median(rounds[len(rounds) // 2 :]))
            affordable = int((limit_s - self.spent_s) / (blocks * typical_s))
            self.calls = max(1, min(calls, affordable))

    def exhausted(self, limit_s: float | None) -> bool:
        """Whether a very slow engine is far beyond its time; two blocks are always measured."""
        if limit_s is None or len(self.engine_blocks) < 2:
            return False
        return self.spent_s > 1.5 * limit_s

    def round(self, *, engine_first: bool) -> None:
        """Time one block of each scope, after a call that is not timed.

        The other engine's threads may still spin and its data fill the cache when the turn passes.
        """
        scopes = [
            (self.engine_blocks, self._call_engine),
            (self.end_to_end_blocks, self._call_end_to_end),
        ]
        for blocks, call in scopes if engine_first else reversed(scopes):
            self._block(call, 1)
            blocks.append(self._block(call, self.calls))

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


def detect(
    engine: Engine, photographs: Sequence[NDArray[np.uint8]], score_threshold: float
) -> list[Detections]:
    """Decoded photographs (H, W, 3) to detections in their own pixels: the end-to-end scope."""
    manifest = engine.manifest
    spec = manifest.input
    placed = [letterbox(pixels, spec.height, spec.width, spec.fill) for pixels in photographs]
    found = engine.candidates(to_input([canvas for canvas, _ in placed], spec))
    return [
        to_photograph(detections, frame, pixels.shape[1], pixels.shape[0])
        for detections, (_, frame), pixels in zip(
            select_detections(found, manifest.nms, score_threshold),
            placed,
            photographs,
            strict=True,
        )
    ]


def _timed_ms(call: Callable[[], None]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


@contextmanager
def _no_collection() -> Iterator[None]:
    """Leave garbage lying until the block is over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
