"""Time one distilled training step against its floor: `python -m benchmarks.studies.kd_step`.

A development benchmark and an exception to "benchmarks never imports compress": it measures
training itself, which leaves no file to read. Nothing else imports it.

Per method two steps (forward, backward, optimiser) are timed one after the other in every round, so
that load slows both equally: the floor, which is the student's step plus the teacher's forward pass
(with only the outputs that the method needs), and the distilled step. The teacher of `dicod` is a
classifier of crops; its pass over the labelled objects belongs to the floor. Every round begins
with the plain student; `--peers` adds other frameworks on the same two models. As in a run, tensors
have channels last, the arithmetic is that of `train.amp`, and a faster copy of the teacher passes.
On a CPU with one thread, times are the processor's. Methods that do not fit a pair are listed with
the reason. The last line is JSON.
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
    PeerRecord,
    Setting,
    StepRecord,
    Stored,
    chosen_arithmetic,
    make_pair,
    table,
    with_store,
)
from benchmarks.studies.kd_peers import PEERS, USUAL_PEERS, peer_steps, require_peers
from benchmarks.timing.environment import environment
from compress.batch import boxes_per_image
from compress.detectors.small_pairs import families
from compress.distillation.distiller import Distiller
from compress.distillation.teacher import LiveTeacher
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
            require_peers(given.peers)
    except ToolkitError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    pairs, arithmetic = {}, {}
    for family in given.pairs:
        setting = Setting(family, given.size, given.batch, given.device)
        setting, why = chosen_arithmetic(setting, given.amp)
        sys.stdout.write(f"{family}: {why}\n")
        arithmetic[family] = why
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
        "clock": "processor" if by_processor(given.device) else "wall",
        "arithmetic": arithmetic,
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
    peers: Sequence[str] = (),
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
    peers: Sequence[str],
    memory: bool,
) -> PairRecord:
    pair = make_pair(setting)
    names = (*names, OURS) if peers and OURS in method_names() and OURS not in names else names
    chosen, skipped = fitting(names, pair.student, pair.teacher)
    half = setting.half
    steps = {"plain": make_step("plain", pair, half=half)}
    for number, (name, config) in enumerate(chosen.items()):
        steps[f"floor of {name}"] = make_step("floor", pair, config, half)
        steps[name] = make_step("distilled", pair, config, half)
        stored = with_store(pair, config, folder / str(number))
        if stored is not None:
            steps[f"stored {name}"] = make_step("distilled", stored, config, half)
    other: dict[str, Callable[[], None]] = {}
    for peer in peers:
        found = peer_steps(peer, *pair[:3])
        other |= {f"peer {name}": step for name, step in found.items()}
        if not found:
            skipped[peer] = "has no such detectors"
    steps |= other
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
            name.removeprefix("peer "): _peer(times, name, peaks.get(name)) for name in other
        },
    }


def _peer(times: Mapping[str, Sequence[float]], name: str, peak: int | None) -> PeerRecord:
    own, plain = times[name], times.get(f"{name} plain")
    return {
        **_step(own, peak),
        "over_plain": _ratio(own, times["plain"]),
        "over_own_plain": None if plain is None else _ratio(own, plain),
        "over_mse": _ratio(own, times[OURS]) if OURS in times else None,
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


def make_distiller(
    pair: Pair, config: LossSection | None, classifier: Classifier | None = None
) -> Distiller:
    """Return the objective at the middle of a long run, after every warm-up and delayed start."""
    losses = [] if config is None else [config]
    distiller = Distiller(
        pair.student,
        (pair.source or pair.teacher) if losses else None,
        losses,
        classifier=classifier,
    )
    distiller.to(pair.batch.images.device).at(500_000, 1_000_000)
    return distiller


def make_floor(pair: Pair, config: LossSection) -> Callable[[], dict[str, torch.Tensor]]:
    """Return both models' forward passes as the method needs them, and the student's losses."""
    student, batch = pair.student, pair.batch
    distiller, classifier = make_distiller(pair, config), random_classifier(config, student)
    source = pair.source or LiveTeacher(pair.teacher, student.spec)

    def forward() -> dict[str, torch.Tensor]:
        outputs, asked = student(batch, distiller.wanted), distiller.wanted_of_teacher
        with torch.no_grad():
            if asked and distiller.roi_source == "student":
                source.outputs(batch, asked, distiller.compared(outputs.rois))
            elif asked:
                source.outputs(batch, asked)
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


def by_processor(device: str) -> bool:
    """Whether steps are timed by the processor's clock, which other programs do not lengthen."""
    return not device.startswith("cuda") and torch.get_num_threads() == 1


def stopwatch(step: Callable[[], None], device: str) -> float:
    """Return the time of one call in ms, including the work on the device."""
    on_gpu = device.startswith("cuda")
    clock = time.process_time if by_processor(device) else time.perf_counter
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    step()
    if on_gpu:
        torch.cuda.synchronize()
    return (clock() - start) * 1000


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
        step = make_step(
            "plain", pair._replace(teacher=pair.student, source=None), half=setting.half
        )
    elif name.startswith("peer "):
        peer = name.removeprefix("peer ")
        step = peer_steps(peer.removesuffix(" plain"), *pair[:3])[peer]
    else:
        kind = "floor" if name.startswith("floor of ") else "distilled"
        step = make_step(kind, pair, config, setting.half)
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
        "--amp", choices=("auto", "off", "bf16"), default="auto", help="as train.amp of a recipe"
    )
    parser.add_argument(
        "--peers",
        type=names_among([*PEERS]),
        nargs="?",
        default=(),
        const=USUAL_PEERS,
        help=f"also time other frameworks: {', '.join(PEERS)}; alone: {', '.join(USUAL_PEERS)}",
    )
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="file to write the result to as well"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
