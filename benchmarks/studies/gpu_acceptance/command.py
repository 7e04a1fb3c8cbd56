"""Accept the training side on a GPU: `python -m benchmarks.studies.gpu_acceptance --out FILE`.

Five parts, each with a share of the time: what a distilled step costs in bf16 with the teacher in
every step and from a store (`steps`), whether steps wait for pictures (`loading`), whether
trainings in fp16 and bf16 stay finite (`precisions`), an exported detector on the GPU's runtimes
(`runtimes`), and a training on photographs for as long as time is left (`photographs`). The file
is rewritten after every part. The exit code is 0 when every part ended, met goals or not, and 1
when one failed. `--device cpu --quick` is a rehearsal in small, whose figures mean nothing.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from benchmarks.studies.gpu_acceptance.loading import loading
from benchmarks.studies.gpu_acceptance.recipes import write_jpegs
from benchmarks.studies.gpu_acceptance.record import Acceptance, Found, PartRecord
from benchmarks.studies.gpu_acceptance.runtimes import runtimes
from benchmarks.studies.gpu_acceptance.steps import FAMILIES, METHODS, step_costs
from benchmarks.studies.gpu_acceptance.trainings import photographs, precisions
from benchmarks.timing.environment import environment
from compress.stages.session import torch_device
from export.arguments import names_among
from export.errors import ToolkitError

BUDGET_S = 440.0  # with the start of the process it stays below 8 minutes
SHARES = {"steps": 0.36, "loading": 0.12, "precisions": 0.2, "runtimes": 0.12}
LAST = "photographs"  # takes what is left
PARTS = (*SHARES, LAST)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the parts and write the file; return the exit code."""
    given = _parser().parse_args(arguments)
    began = time.monotonic()
    try:
        device = torch_device(given.device)
    except ToolkitError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    head: dict[str, JsonValue] = {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "quick": given.quick,
        "budget_s": given.budget_s,
        "commit": given.commit,
        "environment": environment(),
    }
    acceptance = Acceptance(given.out, head, gpu=device.type == "cuda")
    with tempfile.TemporaryDirectory(prefix="gpu-acceptance-") as folder:
        work = _parts(given, str(device), Path(folder))
        for name in [part for part in PARTS if part in given.parts]:
            left = given.budget_s - (time.monotonic() - began)
            seconds = left if name == LAST else min(left, SHARES[name] * given.budget_s)
            _say(name, acceptance.carry_out(name, work[name], max(1.0, seconds)))
    return int(any(part.state == "failed" for part in acceptance.parts.values()))


def _parts(given: argparse.Namespace, device: str, folder: Path) -> dict[str, Callable[..., Found]]:
    """Return the parts with their sizes: of a GPU, or small ones for a rehearsal."""
    home = {name: folder / name for name in PARTS}
    data = given.data
    if given.quick:
        tiny: dict[str, Any] = {"device": device, "size": 64, "batch": 2}
        data = data or write_jpegs(folder / "jpegs", 8)  # so that every part is rehearsed
        return {
            "steps": partial(
                step_costs, **tiny, rounds=2, families=FAMILIES[:1], methods=METHODS[:1],
                folder=home["steps"],
            ),
            "loading": partial(
                loading, **tiny, steps=2, backbone="resnet18", data=data, folder=home["loading"]
            ),
            "precisions": partial(
                precisions, **tiny, steps=2, families=("gfl",), folder=home["precisions"]
            ),
            "runtimes": partial(runtimes, **tiny, steps=2, folder=home["runtimes"]),
            LAST: partial(photographs, **tiny, steps=2, data=data, folder=home[LAST]),
        }  # fmt: skip
    large: dict[str, Any] = {"device": device, "size": 640, "batch": 16}
    middle: dict[str, Any] = {"device": device, "size": 320, "batch": 16}
    return {
        "steps": partial(
            step_costs, **large, rounds=30, families=FAMILIES, methods=METHODS,
            folder=home["steps"],
        ),
        "loading": partial(
            loading, **large, steps=150, backbone="resnet50", data=data, folder=home["loading"]
        ),
        "precisions": partial(
            precisions, **middle, steps=120, families=("gfl", "retinanet", "faster_rcnn"),
            folder=home["precisions"],
        ),
        "runtimes": partial(runtimes, **middle, steps=120, folder=home["runtimes"]),
        LAST: partial(
            photographs, device=device, size=512, batch=16, steps=None, data=data,
            folder=home[LAST],
        ),
    }  # fmt: skip


def _say(name: str, part: PartRecord) -> None:
    sys.stdout.write(f"{name}: {part.state} in {part.seconds:.0f} s {part.why}\n".rstrip() + "\n")
    for goal in part.goals:
        value = "not measured" if goal.value is None else f"{goal.value:.3g}"
        verdict = "met" if goal.met else "MISSED"
        sys.stdout.write(f"  {goal.name}: {value} (at most {goal.limit:g}): {verdict}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.gpu_acceptance",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON file to write, rewritten after each part",
    )
    parser.add_argument("--device", default="cuda", help="device (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="rehearse with small sizes")
    parser.add_argument("--data", type=Path, help="folder of photographs with boxes, any format")
    parser.add_argument(
        "--budget-s", type=float, default=BUDGET_S, help="seconds in all (default: %(default)g)"
    )
    parser.add_argument(
        "--parts",
        type=names_among(PARTS),
        default=PARTS,
        help=f"parts to carry out, comma-separated, of {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument(
        "--commit", help="commit of the code, to record where its folder has no .git"
    )
    return parser
