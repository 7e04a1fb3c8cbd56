"""Measure latency in several fresh processes and report their spread."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.resource_tracker import ensure_running

import numpy as np

from benchmarks.data.image_set import ImageSet
from benchmarks.timing.latency import (
    BLOCK_SPREAD,
    RESAMPLES,
    BenchmarkConfig,
    latency,
    measure,
    resampled_medians,
)
from benchmarks.timing.load import worst_reasons
from benchmarks.timing.records import Latency, Repeats, Timing, Watch
from export.arguments import signals_for_this_process_alone
from export.engine import Engine
from export.errors import ToolkitError

Blocks = Sequence[Sequence[float]]
Openers = Mapping[str, Callable[[], Engine]]


def measure_repeatedly(
    openers: Openers,
    images: ImageSet,
    config: BenchmarkConfig,
    log: Callable[[str], None],
) -> dict[str, Timing]:
    """Measure all engines side by side in `config.repeats` processes, one after the other.

    Args:
        openers: factory of an engine by name; picklable if there is more than one process.
        images: photographs, see `measure`.
        config: see `measure`; the time limit is divided by the processes.
        log: called with a line of text as each process begins.

    Raises:
        ToolkitError: the error of a process, of the same class; or a process died.
    """
    work = partial(_measure_once, openers, images, share_of_limit(config))
    if config.repeats == 1:
        return work()
    found = []
    for number in range(1, config.repeats + 1):
        log(f"latency in process {number} of {config.repeats}")
        found.append(_in_a_fresh_process(work))
    return {name: merge([timings[name] for timings in found]) for name in openers}


def share_of_limit(config: BenchmarkConfig) -> BenchmarkConfig:
    """Return the settings of one process: all of `config`, its time limit divided by `repeats`."""
    if config.time_limit_s is None:
        return config
    return config.model_copy(update={"time_limit_s": config.time_limit_s / config.repeats})


def _measure_once(openers: Openers, images: ImageSet, config: BenchmarkConfig) -> dict[str, Timing]:
    with ExitStack() as stack:
        engines = {name: stack.enter_context(make()) for name, make in openers.items()}
        return measure(engines, images, config)


def _in_a_fresh_process(work: Callable[[], dict[str, Timing]]) -> dict[str, Timing]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(work, sender), daemon=True)
    ensure_running()  # starting the tracker later would let the signals through again
    try:
        with signals_for_this_process_alone():
            process.start()
        sender.close()  # otherwise `recv` would not notice the end of the process
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise ToolkitError(
            f"a process that measured latency died (exit code {process.exitcode}); it may have run "
            "out of memory: measure fewer models at once, or set repeats to 1"
        ) from None
    finally:
        if process.pid is not None:
            process.kill()  # it has answered or failed
            process.join()
        receiver.close()
    if isinstance(answer, ToolkitError):
        raise answer
    found: dict[str, Timing] = answer
    return found


def _answer(work: Callable[[], dict[str, Timing]], sender: Connection) -> None:
    """Run in the fresh process: send back the timings, or the error for the user."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer: dict[str, Timing] | ToolkitError = work()
    except ToolkitError as error:
        answer = error
    sender.send(answer)


def _end_with_parent() -> None:
    """End this process when its parent ends; a killed parent cannot do it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def merge(timings: Sequence[Timing]) -> Timing:
    """Merge the timings of several processes into one.

    The median is that of the processes' medians; quantiles, minimum and mean are of all calls. The
    interval is a bootstrap over blocks within each process. The spread of the processes' medians is
    in `repeats`; a large spread makes the verdict noisy.
    """
    blocks = {
        "model": [timing.model_blocks for timing in timings],
        "engine": [timing.engine_blocks for timing in timings],
        "end_to_end": [timing.end_to_end_blocks for timing in timings],
    }
    scopes = {name: _merged(runs) for name, runs in blocks.items() if all(runs)}
    medians = {
        name: tuple(float(np.median(np.concatenate(run))) for run in blocks[name])
        for name in scopes
    }
    spread = {name: _spread(found) for name, found in medians.items()}
    loads = [timing.latency_ms.load_average or (None, None) for timing in (timings[0], timings[-1])]
    merged: dict[str, object] = {
        "model": scopes.get("model"),
        "engine": scopes["engine"],
        "end_to_end": scopes["end_to_end"],
        "watch": _watched([timing.latency_ms.watch for timing in timings]),
        "load_average": (loads[0][0], loads[1][1]),
        "repeats": Repeats(processes=len(timings), p50=medians, spread=spread),
    }
    return Timing(
        latency_ms=timings[0].latency_ms.model_copy(update=merged),
        verdict=_verdict([timing.verdict for timing in timings], spread),
        model_blocks=_joined(blocks["model"]),
        engine_blocks=_joined(blocks["engine"]),
        end_to_end_blocks=_joined(blocks["end_to_end"]),
    )


def _merged(runs: Sequence[Blocks]) -> Latency:
    generator = np.random.default_rng(0)
    drawn = [
        resampled_medians(run, generator.integers(0, len(run), (RESAMPLES, len(run))))
        for run in runs
    ]
    low, high = np.percentile(np.median(drawn, axis=0), [2.5, 97.5]).tolist()
    middle = float(np.median([np.median(np.concatenate(run)) for run in runs]))
    pooled = latency(_joined(runs))
    return pooled.model_copy(update={"p50": middle, "ci95_p50": (low, high)})


def _joined(runs: Sequence[Blocks]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(block) for run in runs for block in run)


def _spread(medians: Sequence[float]) -> float:
    return (max(medians) - min(medians)) / float(np.median(medians))


def _verdict(verdicts: Sequence[str], spread: dict[str, float]) -> str:
    kinds = [verdict.partition(": ")[0] for verdict in verdicts]
    listed = [verdict.partition(": ")[2] for verdict in verdicts]
    reasons = [reason for one in listed for reason in one.split("; ") if reason]
    reasons += [
        f"{name.replace('_', '-')} medians of the processes spread {share:.0%}"
        for name, share in spread.items()
        if share > BLOCK_SPREAD
    ]
    if not reasons:
        return "valid"
    kind = "throttled" if "throttled" in kinds else "noisy"
    # every reason once, however many processes it disturbed
    return f"{kind}: " + "; ".join(worst_reasons(reasons).values())


def _watched(found: Sequence[Watch | None]) -> Watch | None:
    """Widest ranges, mean energy, largest disturbance, and the sum of what was used."""
    watches = [watch for watch in found if watch is not None]
    if not watches:
        return None
    ranges: dict[str, tuple[float, float]] = {}
    for watch in watches:
        for name, (low, high) in watch.ranges.items():
            known = ranges.setdefault(name, (low, high))
            ranges[name] = (min(known[0], low), max(known[1], high))
    energy = [w.energy_mj_per_picture for w in watches if w.energy_mj_per_picture is not None]
    shares = [watch.others_share for watch in watches if watch.others_share is not None]
    return Watch(
        ranges=ranges,
        gpu=watches[0].gpu,
        energy_mj_per_picture=float(np.mean(energy)) if len(energy) == len(watches) else None,
        own_cpu_s=sum(watch.own_cpu_s or 0.0 for watch in watches),
        others_share=max(shares, default=None),
        blocks=sum(watch.blocks or 0 for watch in watches),
    )
