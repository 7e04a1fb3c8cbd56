"""Time one distilled training step against its floor: `python -m benchmarks.kd_step`.

A development benchmark and the one exception to "benchmarks never imports compress": it measures
training itself, so there is no file that it could read instead. Nothing else imports it.

Per method there are three steps (forward, backward, optimiser), taken in turns so that a busy
machine slows all alike: the plain student, the student with the teacher's forward pass beside it
(the floor, with the same knowledge asked of both), and the distilled one. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter

from compress.batch import Batch, Targets, full_size
from compress.detector import Detector
from compress.detectors import DetectorConfig
from compress.distill import Distiller
from compress.losses import LossConfig

NUM_CLASSES = 20
BOXES_PER_PICTURE = 6
WARM_UP_ROUNDS = 1
METHODS = ("defeat", "gid")


class Setting(NamedTuple):
    """What is measured: a detector family, and how large its pictures and batches are."""

    pair: str
    size: int
    batch: int
    device: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one family and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=("retinanet", "faster_rcnn", "gfl"), default="retinanet")
    parser.add_argument("--size", type=int, default=320, help="side of the input, pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help="rounds that count")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    given = parser.parse_args(arguments)
    result = measure(Setting(given.pair, given.size, given.batch, given.device), given.steps)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(table(result) + "\n" + json.dumps(result) + "\n")


def measure(setting: Setting, rounds: int) -> dict[str, Any]:
    """Return times and memory of every step, and each method's ratio to its own floor."""
    torch.manual_seed(0)
    batch = make_batch(setting)
    student, teacher = build("resnet18", setting), build("resnet50", setting)
    steps: dict[str, Callable[[], None]] = {"plain": make_step("plain", student, teacher, batch)}
    for method in METHODS:
        steps[f"floor of {method}"] = make_step("floor", student, teacher, batch, method)
        steps[method] = make_step("distilled", student, teacher, batch, method)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_UP_ROUNDS + rounds):
        for name, step in steps.items():
            elapsed = stopwatch(step, setting.device)
            if turn >= WARM_UP_ROUNDS:
                times[name].append(elapsed)
    ratios = {
        method: statistics.median(
            own / floor
            for own, floor in zip(times[method], times[f"floor of {method}"], strict=True)
        )
        for method in METHODS
    }
    return {
        **setting._asdict(),
        "student": "resnet18",
        "teacher": "resnet50",
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "step_ms": {name: round(statistics.median(found), 1) for name, found in times.items()},
        "peak_memory_mib": {name: round(peak_memory_mib(name, setting)) for name in steps},
        "distilled_over_floor": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }


def table(result: dict[str, Any]) -> str:
    """Write the result for people."""
    lines = [
        f"{result['pair']} resnet50 -> resnet18, {result['size']} px, batch {result['batch']}, "
        f"{result['device']}, {result['threads']} threads, median of {result['rounds']} rounds",
        f"{'step':<18}{'ms':>10}{'peak MiB':>10}{'/ floor':>9}",
    ]
    for name, step_ms in result["step_ms"].items():
        ratio = result["distilled_over_floor"].get(name)
        shown = f"{ratio:.2f}" if ratio else ""
        lines.append(f"{name:<18}{step_ms:>10.1f}{result['peak_memory_mib'][name]:>10}{shown:>9}")
    return "\n".join(lines)


def build(backbone: str, setting: Setting) -> Detector:
    """Build a detector with random weights."""
    config: Any = TypeAdapter(DetectorConfig).validate_python(
        {"type": setting.pair, "backbone": backbone}
    )
    detector: Detector = config.build(NUM_CLASSES, (setting.size, setting.size))
    return detector.to(setting.device)


def make_batch(setting: Setting) -> Batch:
    """Draw noise with boxes on it; a tenth to half of the picture wide and high."""
    images = torch.rand(setting.batch, 3, setting.size, setting.size)
    targets = []
    for _ in range(setting.batch):
        sides = (0.1 + 0.4 * torch.rand(BOXES_PER_PICTURE, 2)) * setting.size
        corners = torch.rand(BOXES_PER_PICTURE, 2) * (setting.size - sides)
        labels = torch.randint(0, NUM_CLASSES, (BOXES_PER_PICTURE,))
        targets.append(Targets(torch.cat([corners, corners + sides], dim=1), labels))
    return Batch(
        images=images,
        targets=tuple(targets),
        sizes=full_size(images),
        image_ids=tuple(range(setting.batch)),
        labeled=setting.batch,
    ).to(torch.device(setting.device))


def make_step(
    kind: str, student: Detector, teacher: Detector, batch: Batch, method: str = METHODS[0]
) -> Callable[[], None]:
    """Return a whole training step of a kind: `plain`, `floor` or `distilled`."""
    losses = [TypeAdapter(LossConfig).validate_python({"type": method})]
    distiller = Distiller(student, None if kind == "plain" else teacher, losses)
    wanted = distiller.wanted
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        student.train()
        if kind == "floor":
            with torch.no_grad():
                teacher(batch, wanted)
            terms = student(batch, wanted).task_losses
        else:
            terms = distiller(batch)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def stopwatch(step: Callable[[], None], device: str) -> float:
    """Return the milliseconds of one call, the device's work included."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1000


def peak_memory_mib(name: str, setting: Setting) -> float:
    """Return the peak of a fresh process that only takes this step, twice.

    On a GPU it is what torch has allocated there, else the resident memory with all libraries.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_one, (name, setting))


def _peak_of_one(name: str, setting: Setting) -> float:
    batch, student = make_batch(setting), build("resnet18", setting)
    teacher = student if name == "plain" else build("resnet50", setting)
    floor, method = name.startswith("floor"), name.split()[-1]
    if name == "plain":
        step = make_step("plain", student, teacher, batch)
    else:
        step = make_step("floor" if floor else "distilled", student, teacher, batch, method)
    for _ in range(2):
        step()
    if setting.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss would include the process that started this one
        kib = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(kib.group(1)) / 2**10 if kib else float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


if __name__ == "__main__":
    main()
