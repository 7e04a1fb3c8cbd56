"""Records of one engine's latency and throughput in `report.json`. Times are milliseconds."""

from benchmarks.record import Record


class Latency(Record):
    """Milliseconds per call of one scope of one engine.

    Attributes:
        p25: lower quartile; None in reports of version 0.1.
        p75: upper quartile.
        iqr: `p75 - p25`.
        n: number of calls; none is left out.
        ci95_p50: 95 % bootstrap interval of the median over blocks, since calls within a block
            resemble each other.
        p99_reliable: whether `n` is large enough (500) for p99 to be more than the worst calls.
    """

    p50: float
    p25: float | None = None
    p75: float | None = None
    iqr: float | None = None
    p90: float
    p99: float
    min: float
    mean: float | None = None
    n: int
    ci95_p50: tuple[float, float]
    p99_reliable: bool = True


class Watch(Record):
    """Clocks, load and GPU while the calls were timed.

    Attributes:
        ranges: lowest and highest value by clock or sensor.
        gpu: name of the GPU, or why it was not watched.
        energy_mj_per_picture: millijoules of the whole board; None where it has no counter.
        own_cpu_s: processor seconds that the measuring processes used.
        others_share: share of the processors that other programs used.
        blocks: number of timed blocks of each scope.
    """

    ranges: dict[str, tuple[float, float]]
    gpu: str
    energy_mj_per_picture: float | None = None
    own_cpu_s: float | None = None
    others_share: float | None = None
    blocks: int | None = None


class Repeats(Record):
    """Medians of several processes that measured the same engine.

    Attributes:
        processes: number of processes.
        p50: median of each process, by scope.
        spread: (largest - smallest) / median of these medians, by scope.
    """

    processes: int
    p50: dict[str, tuple[float, ...]]
    spread: dict[str, float]


class Latencies(Record):
    """`latency_ms` of a row of `report.json`: the scopes of one engine.

    Attributes:
        model: device to device; None on the CPU and for an engine without such a call.
        model_scope: how `model` was timed, or why it was not.
        engine: with the copies to the device and back.
        end_to_end: times from a decoded photograph to boxes in it.
        images: number of distinct photographs in rotation.
        device: where the engine computed.
        load_average: load average over 1 minute before the first and after the last block.
        repeats: medians by process and their spread; None for one process.
        inclusions: what each scope includes, in words.
    """

    model: Latency | None = None
    model_scope: str = ""
    engine: Latency
    end_to_end: Latency
    batch: int
    images: int | None = None
    score_threshold: float | None = None
    device: str | None = None
    load_average: tuple[float | None, float | None] | None = None
    watch: Watch | None = None
    repeats: Repeats | None = None
    inclusions: str = ""


class Throughput(Record):
    """Pictures per second of one engine at one batch.

    Attributes:
        call_ms: median time of a call.
        n: number of calls.
    """

    batch: int
    images_per_s: float
    call_ms: float
    n: int


class Timing(Record):
    """Latency and throughput of one engine.

    Attributes:
        verdict: `valid`; or `throttled: ` or `noisy: ` and every reason.
        engine_blocks: milliseconds of each call, block by block, for `ratio_ci`.
        end_to_end_blocks: milliseconds of each call, block by block.
        model_blocks: milliseconds of each call, block by block; empty where the scope is None.
        throughput: one entry per batch, which `sweep` measures after the latencies.
    """

    latency_ms: Latencies
    verdict: str
    engine_blocks: tuple[tuple[float, ...], ...] = ()
    end_to_end_blocks: tuple[tuple[float, ...], ...] = ()
    model_blocks: tuple[tuple[float, ...], ...] = ()
    throughput: tuple[Throughput, ...] = ()
