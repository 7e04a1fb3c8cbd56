"""Time engines in interleaved blocks; keep every call; flag unreliable timings.

Three scopes. `model` is the model alone, inputs and outputs staying on its device. `engine` adds
the copies: a ready tensor on the host in, candidate boxes on the host out. On the CPU the two are
the same and are measured once, as `engine`. `end_to_end` goes from a decoded uint8 photograph to
boxes in that photograph: letterbox, tensor, model, threshold and NMS, mapping back. Reading and
decoding the file is in none. Times are per call, so per `batch` pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import Self

from benchmarks.data.image_set import ImageSet, read_photograph
from benchmarks.timing.clocks import ClockWatch, Span, energy_mj, ranges, throttled, unsteady
from benchmarks.timing.contender import Contender
from benchmarks.timing.load import LoadWatch
from benchmarks.timing.records import Latencies, Latency, Timing, Watch
from export.backends.interface import EventTimed
from export.config import EACH_ONCE, ClashError, Seconds, Section, Threads
from export.engine import Engine
from export.errors import DataError

INCLUSIONS = (
    "model: inputs and outputs stay on the device. engine (model with copies): tensor in memory -> "
    "candidate boxes on the host. end_to_end: decoded uint8 photograph -> letterbox, tensor, "
    "model, score threshold, NMS of models that need it, boxes in photograph pixels. Reading and "
    "decoding the file is in none. Median over all calls; interval: 95 % bootstrap over blocks; "
    "engines interleaved block by block, one untimed call before each block; caches are warm, "
    "clocks are not locked."
)
SAME_AS_ENGINE = "equal to the time with copies: on the CPU nothing is copied"
BY_EVENTS = "by {clock} around the pass"  # the clock of an `EventTimed` engine
BY_THE_HOST = "by the host's clock, including its waiting time"
NO_DEVICE_CALL = "not measured: this engine has no call without copies"
BLOCK_SPREAD = 0.20  # of the median block; above it the timing is noisy
RELIABLE_P99 = 500  # calls
PHOTOGRAPH_BYTES = 512 * 2**20  # decoded photographs held in memory at most
RESAMPLES = 1000
MOST_CALLS = 10_000_000  # that may be asked for


EngineBatch = Annotated[int, Field(ge=1, le=4096)]  # pictures per call
Batches = Annotated[tuple[EngineBatch, ...], Field(max_length=32), EACH_ONCE]


class BenchmarkConfig(Section):
    """How latency is measured."""

    blocks: int = Field(default=8, ge=2, le=10_000)  # interleaved between the engines
    calls_per_block: int = Field(default=25, ge=1, le=100_000)  # of each scope
    # fresh processes that each measure all blocks: 600 calls in all
    repeats: int = Field(default=3, ge=1, le=100)
    warmup: int = Field(default=10, ge=1, le=100_000)  # calls of each scope before the first block
    images: int = Field(default=32, ge=1, le=100_000)  # distinct photographs in rotation
    # of the engines; None: the runtime's default
    threads: Threads | None = None
    batch: EngineBatch = 1
    time_limit_s: Annotated[Seconds, Field(ge=0.1)] | None = (
        60.0  # per engine, over all repeats; fewer calls beyond it
    )
    score_threshold: float = Field(default=0.25, ge=0, lt=1)  # end to end
    # empty: no throughput
    throughput_batches: Batches = (1, 2, 4, 8, 16)
    throughput_s: Annotated[Seconds, Field(ge=0.01)] = 1.0  # seconds of calls per engine and batch

    @model_validator(mode="after")
    def _ends(self) -> Self:
        calls = self.repeats * self.blocks * self.calls_per_block
        if calls > MOST_CALLS:
            raise ClashError(
                f"repeats, blocks and calls_per_block make {calls} calls of each engine and scope; "
                f"at most {MOST_CALLS}",
                *("calls_per_block", "blocks", "repeats"),
            )
        return self


@dataclass(frozen=True)
class SpeedRatio:
    """Ratio of the median times of two engines; above 1 the second is faster.

    Attributes:
        verdict: `faster`, `slower`, or `no change` when the interval includes 1.
    """

    ratio: float
    ci95: tuple[float, float]
    verdict: str


def measure(
    engines: Mapping[str, Engine], images: ImageSet, config: BenchmarkConfig
) -> dict[str, Timing]:
    """Time open engines against each other on the same photographs.

    Block b visits the engines in order, block b + 1 in reverse, so a machine that slows down
    slows all of them. Garbage collection is off inside a block.

    Args:
        engines: open engines (inside their `with`) by name.
        images: photographs; the first `config.images` are used.
        config: number of calls and blocks, and the time limit.

    Raises:
        DataError: there is no photograph.
        ExportError: a graph does not take the requested batch.
    """
    photographs = photographs_of(images, config)
    contenders = {
        name: Contender.prepare(engine, photographs, config.batch, config.score_threshold)
        for name, engine in engines.items()
    }
    load = LoadWatch.start()
    limit_s = config.time_limit_s
    order = list(contenders.values())
    with ClockWatch(gpu=any(contender.device != "cpu" for contender in order)) as clocks:
        for contender in order:
            contender.warm_up(config.warmup, config.blocks, config.calls_per_block, limit_s)
        for number in range(config.blocks):
            for contender in order if number % 2 == 0 else reversed(order):
                if not contender.exhausted(limit_s):
                    contender.round(clocks, engine_first=number % 2 == 0)
    noise = load.reasons()
    if clocks.others:
        noise.append("another program was using the GPU")
    return {
        name: _timing(contender, config, len(photographs), load, clocks, noise)
        for name, contender in contenders.items()
    }


def latency(blocks: Sequence[Sequence[float]], *, seed: int = 0) -> Latency:
    """Return quantiles and interval of milliseconds per call, given block by block."""
    times = np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])
    p25, p50, p75, p90, p99 = np.percentile(times, [25, 50, 75, 90, 99]).tolist()
    chosen = np.random.default_rng(seed).integers(0, len(blocks), (RESAMPLES, len(blocks)))
    low, high = np.percentile(resampled_medians(blocks, chosen), [2.5, 97.5]).tolist()
    return Latency(
        p50=p50,
        p25=p25,
        p75=p75,
        iqr=p75 - p25,
        p90=p90,
        p99=p99,
        min=float(times.min()),
        mean=float(times.mean()),
        n=times.size,
        ci95_p50=(low, high),
        p99_reliable=times.size >= RELIABLE_P99,
    )


def ratio_ci(
    a_blocks: Sequence[Sequence[float]], b_blocks: Sequence[Sequence[float]], *, seed: int = 0
) -> SpeedRatio:
    """Return median time of `a` / median time of `b`, with a 95 % bootstrap over paired blocks.

    Block i of both was timed at nearly the same moment, so they are drawn together; blocks that
    only one side has are left out of the interval.
    """
    pairs = min(len(a_blocks), len(b_blocks))
    chosen = np.random.default_rng(seed).integers(0, pairs, (RESAMPLES, pairs))
    drawn = resampled_medians(a_blocks, chosen) / resampled_medians(b_blocks, chosen)
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    ratio = float(np.median(np.concatenate(a_blocks)) / np.median(np.concatenate(b_blocks)))
    changed = "faster" if low > 1 else "slower"
    return SpeedRatio(ratio, (low, high), "no change" if low <= 1 <= high else changed)


def resampled_medians(
    blocks: Sequence[Sequence[float]], chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the median over the calls of the chosen blocks: (N, blocks) indices -> (N,)."""
    arrays = [np.asarray(block, dtype=np.float64) for block in blocks]
    if len({array.size for array in arrays}) == 1:
        drawn = np.stack(arrays)[chosen]  # (resamples, blocks, calls)
        return np.asarray(np.median(drawn.reshape(len(chosen), -1), axis=1))
    return np.array([np.median(np.concatenate([arrays[i] for i in row])) for row in chosen])


def photographs_of(images: ImageSet, config: BenchmarkConfig) -> list[NDArray[np.uint8]]:
    """Decode the first pictures, up to `config.images` and `PHOTOGRAPH_BYTES`."""
    photographs: list[NDArray[np.uint8]] = []
    size = 0
    for index in range(min(config.images, len(images))):
        photographs.append(read_photograph(images, index))
        size += photographs[-1].nbytes
        if size >= PHOTOGRAPH_BYTES:
            break
    if not photographs:
        raise DataError(f"{images.source}: no picture to measure latency on; give at least one")
    return photographs


def _timing(
    contender: Contender,
    config: BenchmarkConfig,
    images: int,
    load: LoadWatch,
    clocks: ClockWatch,
    noise: Sequence[str],
) -> Timing:
    spans = [span for scope in contender.spans.values() for span in scope]
    limited, reasons = throttled(spans), [*noise, *unsteady(spans)]
    for scope, blocks in (
        ("model", contender.model_blocks),
        ("engine", contender.engine_blocks),
        ("end-to-end", contender.end_to_end_blocks),
    ):
        medians = [float(np.median(block)) for block in blocks]
        if medians and (max(medians) - min(medians)) / np.median(medians) > BLOCK_SPREAD:
            spread = (max(medians) - min(medians)) / float(np.median(medians))
            reasons.append(f"{scope} block medians spread {spread:.0%}")
    kind = "throttled" if limited else "noisy"
    clock = BY_THE_HOST
    if isinstance(contender.engine, EventTimed):
        clock = BY_EVENTS.format(clock=contender.engine.clock)
    model_scope = clock if contender.model_blocks else NO_DEVICE_CALL
    latencies = Latencies(
        model=latency(contender.model_blocks) if contender.model_blocks else None,
        model_scope=SAME_AS_ENGINE if contender.device == "cpu" else model_scope,
        engine=latency(contender.engine_blocks),
        end_to_end=latency(contender.end_to_end_blocks),
        batch=config.batch,
        images=images,
        score_threshold=config.score_threshold,
        device=contender.device,
        load_average=(load.load_before, load.load_after),
        watch=_watched(contender, config.batch, load, clocks, spans),
        inclusions=INCLUSIONS,
    )
    return Timing(
        latency_ms=latencies,
        verdict=f"{kind}: " + "; ".join([*limited, *reasons]) if limited or reasons else "valid",
        engine_blocks=tuple(contender.engine_blocks),
        end_to_end_blocks=tuple(contender.end_to_end_blocks),
        model_blocks=tuple(contender.model_blocks),
    )


def _watched(
    contender: Contender, batch: int, load: LoadWatch, clocks: ClockWatch, spans: Sequence[Span]
) -> Watch:
    seconds = sum(sum(block) for block in contender.engine_blocks) / 1e3
    pictures = batch * sum(len(block) for block in contender.engine_blocks)
    return Watch(
        ranges=ranges(spans),
        gpu=clocks.gpu,
        energy_mj_per_picture=energy_mj(contender.spans.get("engine", []), pictures, seconds),
        own_cpu_s=load.own_used_s,
        others_share=load.others_share,
        blocks=len(contender.engine_blocks),
    )
