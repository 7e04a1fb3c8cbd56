"""Latency in fresh processes: how much one process's luck with memory and threads is worth.

`python -m benchmarks.repeats REQUEST ANSWER` is what each process runs; for people there is
`python -m benchmarks.run --repeats N`.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from benchmarks.coco_images import read_coco
from benchmarks.latency import (
    BLOCK_SPREAD,
    RESAMPLES,
    BenchmarkConfig,
    Latency,
    Timing,
    latency,
    measure,
    resampled_medians,
)
from benchmarks.opening import EngineSettings
from export.atomic import write_bytes
from export.config import Section
from export.errors import DataError, ExportError, MissingDependencyError, ToolkitError

_ANSWER = TypeAdapter(list[Timing])
Blocks = Sequence[Sequence[float]]


class Request(Section):
    """What one process is to measure."""

    models: tuple[Path, ...]
    data: Path
    images: Path | None
    settings: EngineSettings
    config: BenchmarkConfig


def measure_repeatedly(request: Request, repeats: int) -> list[Timing]:
    """Measure all models side by side in `repeats` processes, one after the other; merge by model.

    Call it before this process uses a GPU, so that only the process that measures does.

    Raises:
        ToolkitError: a process failed; the error is of its kind and says what it said.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="repeats") as scratch:
        asked, answer = Path(scratch) / "request.json", Path(scratch) / "answer.json"
        asked.write_text(request.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.repeats", str(asked), str(answer)]
        for number in range(1, repeats + 1):
            sys.stderr.write(f"latency in process {number} of {repeats}\n")
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                raise _error(done.returncode, done.stderr)
            found.append(_ANSWER.validate_json(answer.read_bytes()))
    return [merge(timings) for timings in zip(*found, strict=True)]


def merge(timings: Sequence[Timing]) -> Timing:
    """Make one timing of those of several processes.

    The median is that of the processes' medians; quantiles, minimum and mean are of all calls. The
    interval is a bootstrap over blocks within each process: how far the processes lie apart is
    stated beside it, in `repeats`, and makes a row noisy like blocks that lie apart.
    """
    first = timings[0]
    blocks = {
        "model": [timing.model_blocks for timing in timings],
        "engine": [timing.engine_blocks for timing in timings],
        "end_to_end": [timing.end_to_end_blocks for timing in timings],
    }
    scopes = {name: _merged(runs) for name, runs in blocks.items() if all(runs)}
    medians = {
        name: [float(np.median(np.concatenate(run))) for run in blocks[name]] for name in scopes
    }
    spread = {name: _spread(found) for name, found in medians.items()}
    return replace(
        first,
        model=scopes.get("model"),
        engine=scopes["engine"],
        end_to_end=scopes["end_to_end"],
        watch=_watched([timing.watch for timing in timings]),
        verdict=_verdict([timing.verdict for timing in timings], spread),
        load=(first.load[0], timings[-1].load[1]),
        model_blocks=_joined(blocks["model"]),
        engine_blocks=_joined(blocks["engine"]),
        end_to_end_blocks=_joined(blocks["end_to_end"]),
        repeats={"processes": len(timings), "p50": medians, "spread": spread},
    )


def _merged(runs: Sequence[Blocks]) -> Latency:
    generator = np.random.default_rng(0)
    drawn = [
        resampled_medians(run, generator.integers(0, len(run), (RESAMPLES, len(run))))
        for run in runs
    ]
    low, high = np.percentile(np.median(drawn, axis=0), [2.5, 97.5]).tolist()
    middle = float(np.median([np.median(np.concatenate(run)) for run in runs]))
    return replace(latency(_joined(runs)), p50_ms=middle, ci95_p50=(low, high))


def _joined(runs: Sequence[Blocks]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(block) for run in runs for block in run)


def _spread(medians: Sequence[float]) -> float:
    return (max(medians) - min(medians)) / float(np.median(medians))


def _verdict(verdicts: Sequence[str], spread: dict[str, float]) -> str:
    kinds = [verdict.partition(": ")[0] for verdict in verdicts]
    told = [verdict.partition(": ")[2] for verdict in verdicts]
    reasons = [reason for one in told for reason in one.split("; ") if reason]
    reasons += [
        f"{name.replace('_', '-')} medians of the processes spread {share:.0%}"
        for name, share in spread.items()
        if share > BLOCK_SPREAD
    ]
    if not reasons:
        return "valid"
    kind = "throttled" if "throttled" in kinds else "noisy"
    return f"{kind}: " + "; ".join(dict.fromkeys(reasons))


def _watched(watches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Widest ranges, mean energy, most disturbance, and the sum of what was used."""
    ranges: dict[str, list[float]] = {}
    for watch in watches:
        for name, (low, high) in watch["ranges"].items():
            known = ranges.setdefault(name, [low, high])
            ranges[name] = [min(known[0], low), max(known[1], high)]
    energy = [watch["energy_mj_per_picture"] for watch in watches]
    shares = [watch["others_share"] for watch in watches if watch["others_share"] is not None]
    return {
        **watches[0],
        "ranges": ranges,
        "energy_mj_per_picture": None if None in energy else float(np.mean(energy)),
        "own_cpu_s": sum(watch["own_cpu_s"] for watch in watches),
        "others_share": max(shares, default=None),
        "blocks": sum(watch["blocks"] for watch in watches),
    }


def _error(code: int, said: str) -> ToolkitError:
    known: list[type[ToolkitError]] = [DataError, MissingDependencyError, ExportError]
    kinds = {kind.exit_code: kind for kind in known}
    lines = said.strip().splitlines() or ["it said nothing"]
    message = lines[-1].removeprefix("error: ")
    return kinds.get(code, ToolkitError)(f"a process that measured latency ended: {message}")


def main(arguments: Sequence[str]) -> int:
    """Measure what the request asks for; return the exit code."""
    asked, answer = map(Path, arguments)
    request = Request.model_validate_json(asked.read_bytes())
    try:
        images = read_coco(request.data, request.images)
        with ExitStack() as stack:
            engines = {
                str(index): stack.enter_context(request.settings.open(path))
                for index, path in enumerate(request.models)
            }
            timings = measure(engines, images, request.config)
    except ToolkitError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    write_bytes(_ANSWER.dump_json(list(timings.values())), answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
