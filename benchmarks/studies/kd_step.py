"""Time one distilled training step against its floor: `python -m benchmarks.studies.kd_step`.

A development benchmark and an exception to "benchmarks never imports compress": it measures
training itself, which leaves no file to read. Nothing else imports it.

Per method two steps (forward, backward, optimiser) are timed one after the other in every round, so
that load slows both equally: the floor, which is the student's step plus the teacher's forward pass
(with only the outputs that the method needs), and the distilled step. The teacher of `dicod` is a
classifier of crops; its pass over the labelled objects belongs to the floor. Every round begins
with the plain student; `--peers` adds other frameworks on the same two models. Methods that do not
fit a pair are listed with the reason. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.studies.kd_methods import fitting, method_names, random_classifier, stated
from benchmarks.studies.kd_pair import (
    STUDENT,
    TEACHER,
    Pair,
    PairRecord,
    Setting,
    StepRecord,
    Stored,
    make_pair,
    with_store,
)
from benchmarks.studies.kd_peers import PEERS, peer_step, require_peers
from benchmarks.timing.environment import environment
from compress.batch import boxes_per_image
from compress.detectors.small_pairs import families
from compress.distillation.distiller import Distiller
from compress.losses.parts.classifier import Classifier
from compress.losses.parts.loss import LossSection
from compress.parts.crops import crop_boxes
from compress.training.optim import build_separate
from export.arguments import names_among
from export.errors import ToolkitError

WARM_UP_ROUNDS = 1
USUAL_PAIRS = ("retinanet", "faster_rcnn")
OURS = "mse"  # what the peers are compared with: the mean squared error of the pyramid's maps


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every pair and print tables and a line of JSON; return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        if given.peers:
            require_peers()
    except ToolkitError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    pairs = {}
    for family in given.pairs:
        setting = Setting(family, given.size, given.batch, given.device)
        pairs[family] = measure(
            setting, given.methods, given.rounds, peers=given.peers, memory=given.memory
        )
        sys.stdout.write(table(setting, given.rounds, pairs[family]) + "\n\n")
        sys.stdout.flush()
    result = {
        "schema": 1,
        "size": given.size,
        "batch": given.batch,
        "device": given.device,
        "gpu": torch.cuda.get_device_name() if given.device.startswith("cuda") else None,
        "student": STUDENT,
        "teacher": TEACHER,
        "rounds": given.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pairs": pairs,
        "environment": environment(),
    }
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def measure(
    setting: Setting,
    names: Sequence[str],
    rounds: int,
    *,
    peers: bool = False,
    memory: bool = True,
) -> PairRecord:
    """Return times and memory of every step, and each method's ratio to its own floor."""
    with tempfile.TemporaryDirectory() as folder:
        return _measured(setting, names, rounds, Path(folder), peers=peers, memory=memory)


def _measured(
    setting: Setting,
    names: Sequence[str],
    rounds: int,
    folder: Path,
    *,
    peers: bool,
    memory: bool,
) -> PairRecord:
    pair = make_pair(setting)
    names = (*names, OURS) if peers and OURS in method_names() and OURS not in names else names
    chosen, skipped = fitting(names, pair.student, pair.teacher)
    steps = {"plain": make_step("plain", pair)}
    for number, (name, config) in enumerate(chosen.items()):
        steps[f"floor of {name}"] = make_step("floor", pair, config)
        steps[name] = make_step("distilled", pair, config)
        stored = with_store(pair, config, folder / str(number))
        if stored is not None:
            steps[f"stored {name}"] = make_step("distilled", stored, config)
    if peers:
        steps |= {f"peer {peer}": peer_step(peer, *pair[:3]) for peer in PEERS}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_UP_ROUNDS + rounds):
        for name, step in steps.items():
            elapsed = stopwatch(step, setting.device)
            if turn >= WARM_UP_ROUNDS:
                times[name].append(elapsed)
    alone = [name for name in steps if not name.startswith("stored ")]
    peaks = _peaks(alone, chosen, pair, setting) if memory else {}
    return {
        "plain": _step(times["plain"], peaks.get("plain")),
        "methods": {
            name: {
                "needs": sorted(make_distiller(pair, config).wanted),
                "settings": stated(config),
                **_step(times[name], peaks.get(name)),
                "floor": _step(times[f"floor of {name}"], peaks.get(f"floor of {name}")),
                "over_floor": _ratio(times[name], times[f"floor of {name}"]),
                "over_plain": _ratio(times[name], times["plain"]),
                **_stored(times, name),
            }
            for name, config in chosen.items()
        },
        "skipped": skipped,
        "peers": {
            peer: {
                **_step(times[f"peer {peer}"], peaks.get(f"peer {peer}")),
                "over_plain": _ratio(times[f"peer {peer}"], times["plain"]),
                "over_mse": _ratio(times[f"peer {peer}"], times[OURS]) if OURS in times else None,
            }
            for peer in (PEERS if peers else ())
        },
    }


def _stored(times: Mapping[str, Sequence[float]], name: str) -> Stored:
    own = times.get(f"stored {name}")
    if own is None:
        return {"stored_ms": None, "stored_over_plain": None}
    ratio = _ratio(own, times["plain"])
    return {"stored_ms": round(statistics.median(own), 1), "stored_over_plain": ratio}


def _step(times: Sequence[float], peak: int | None) -> StepRecord:
    return {"ms": round(statistics.median(times), 1), "peak_mib": peak}


def _ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return round(statistics.median(a / b for a, b in zip(times, others, strict=True)), 3)


def table(setting: Setting, rounds: int, result: PairRecord) -> str:
    """Return the result as a table of text."""
    lines = [
        f"{setting.pair} {TEACHER} -> {STUDENT}, {setting.size} px, batch {setting.batch}, "
        f"{setting.device}, {torch.get_num_threads()} threads, median of {rounds} rounds",
        f"{'step':<28}{'floor ms':>10}{'ms':>10}{'/ floor':>9}{'/ plain':>9}{'stored':>9}"
        f"{'floor MiB':>11}{'MiB':>8}",
    ]

    def line(
        name: str,
        step: StepRecord,
        over_plain: float | None = None,
        over_floor: float | None = None,
        floor: StepRecord | None = None,
        stored: float | None = None,
    ) -> str:
        cells = (
            (None if floor is None else floor["ms"], 10, ".1f"),
            (step["ms"], 10, ".1f"),
            (over_floor, 9, ".2f"),
            (over_plain, 9, ".2f"),
            (stored, 9, ".2f"),
            (None if floor is None else floor["peak_mib"], 11, "d"),
            (step["peak_mib"], 8, "d"),
        )
        return f"{name:<28}" + "".join(
            f"{'' if value is None else format(value, form):>{width}}"
            for value, width, form in cells
        )

    lines.append(line("plain", result["plain"]))
    lines += [
        line(
            name,
            step,
            step["over_plain"],
            step["over_floor"],
            step["floor"],
            step["stored_over_plain"],
        )
        for name, step in result["methods"].items()
    ]
    lines += [line(name, step, step["over_plain"]) for name, step in result["peers"].items()]
    lines += [f"skipped {name}: {why}" for name, why in result["skipped"].items()]
    return "\n".join(lines)


def make_distiller(
    pair: Pair, config: LossSection | None, classifier: Classifier | None = None
) -> Distiller:
    """Return the objective at the middle of a long run, after every warm-up and delayed start."""
    losses = [] if config is None else [config]
    distiller = Distiller(
        pair.student,
        (pair.stored or pair.teacher) if losses else None,
        losses,
        classifier=classifier,
    )
    distiller.to(pair.batch.images.device).at(500_000, 1_000_000)
    return distiller


def make_floor(pair: Pair, config: LossSection) -> Callable[[], dict[str, torch.Tensor]]:
    """Return both models' forward passes as the method needs them, and the student's losses."""
    student, teacher, batch = pair[:3]
    distiller, classifier = make_distiller(pair, config), random_classifier(config, student)

    def forward() -> dict[str, torch.Tensor]:
        outputs, asked = student(batch, distiller.wanted), distiller.wanted_of_teacher
        with torch.no_grad():
            if asked and distiller.roi_source == "student":
                teacher(batch, asked, rois=distiller.compared(outputs.rois))
            elif asked:
                teacher(batch, asked)
            if classifier is not None:
                boxes = boxes_per_image(batch.targets)
                classifier(crop_boxes(batch.images, boxes, classifier.crop))
        losses: dict[str, torch.Tensor] = outputs.task_losses
        return losses

    return forward


def make_step(
    kind: str, pair: Pair, config: LossSection | None = None, half: torch.dtype | None = None
) -> Callable[[], None]:
    """Return a whole step of a kind, `plain`, `floor` or `distilled`; None of `half`: in fp32."""
    student, batch, optimizers = pair.student, pair.batch, [pair.optimizer]
    forward: Callable[[], dict[str, torch.Tensor]]
    if config is None:
        forward = partial(make_distiller(pair, None), batch)
    elif kind == "floor":
        forward = make_floor(pair, config)
    else:
        distiller = make_distiller(pair, config, random_classifier(config, student))
        forward = partial(distiller, batch)
        separate = distiller.separate()
        apart = {id(p) for one in separate for p in one.module.parameters()}
        own = [p for p in distiller.losses.parameters() if id(p) not in apart]
        optimizers += [torch.optim.SGD(own, lr=1e-6, momentum=0.9)] if own else []
        optimizers += [build_separate(one) for one in separate]

    def step() -> None:
        student.train()
        with torch.autocast(batch.images.device.type, half, enabled=half is not None):
            terms = forward()
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()

    return step


def stopwatch(step: Callable[[], None], device: str) -> float:
    """Return the time of one call in ms, including the work on the device."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1000


def _peaks(
    steps: Iterable[str], chosen: Mapping[str, LossSection], pair: Pair, setting: Setting
) -> dict[str, int]:
    """Measure the peak memory of every step; equal floors are measured once."""
    floors: dict[tuple[object, ...], int] = {}
    peaks = {}
    for name in steps:
        if not name.startswith("floor of "):
            peaks[name] = round(peak_memory_mib(name, setting, chosen.get(name)))
            continue
        config = chosen[name.removeprefix("floor of ")]
        made = make_distiller(pair, config)
        asked = (
            made.wanted,
            made.wanted_of_teacher,
            made.roi_source,
            config.wanted_classifier() is None,
        )
        if asked not in floors:
            floors[asked] = round(peak_memory_mib(name, setting, config))
        peaks[name] = floors[asked]
    return peaks


def peak_memory_mib(name: str, setting: Setting, config: LossSection | None = None) -> float:
    """Return the peak memory of a fresh process that runs only this step, twice.

    On a GPU: the memory allocated by torch; else the resident memory with all libraries.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_one, (name, setting, config))


def _peak_of_one(name: str, setting: Setting, config: LossSection | None) -> float:
    pair = make_pair(setting)
    if name == "plain":
        step = make_step("plain", pair._replace(teacher=pair.student))
    elif name.startswith("peer "):
        step = peer_step(name.removeprefix("peer "), *pair[:3])
    else:
        kind = "floor" if name.startswith("floor of ") else "distilled"
        step = make_step(kind, pair, config)
    for _ in range(2):
        step()
    if setting.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss would include the process that started this one
        kib = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(kib.group(1)) / 2**10 if kib else float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.kd_step", description=(__doc__ or "").splitlines()[0]
    )
    methods = method_names()
    parser.add_argument(
        "--methods",
        type=names_among(methods),
        default=methods,
        help="methods to time, comma-separated (default: all)",
    )
    parser.add_argument(
        "--pairs",
        type=names_among(families()),
        default=USUAL_PAIRS,
        help="families of the pairs (default: %(default)s)",
    )
    parser.add_argument("--size", type=int, default=320, help="side of the input, pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8, help="timed rounds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also measure peak memory",
    )
    parser.add_argument(
        "--peers", action="store_true", help=f"also time {' and '.join(PEERS)} on the same models"
    )
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="file to write the result to as well"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
