"""Short trainings as a user runs them: 16 bits, and photographs for as long as there is time."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors.torch import load_file

from benchmarks.studies.gpu_acceptance.recipes import Settings, drawn, opened, photographed
from benchmarks.studies.gpu_acceptance.record import Deadline, Found, Goal, SkippedError
from compress.pipeline import train_models
from compress.stages.rundir import TrainingRecord, read_record

TRIAL = 24  # steps from which the cost of a longer training is estimated
SHARE = 0.85  # of the time that is left, for the steps


def precisions(
    deadline: Deadline,
    *,
    device: str,
    size: int,
    batch: int,
    steps: int,
    families: Sequence[str],
    folder: Path,
) -> Found:
    """Train a teacher and distil a student in bf16 and, on a GPU, in fp16.

    The training loop itself ends a training whose loss or gradient is not finite.
    """
    found: dict[str, JsonValue] = {"size": size, "batch": batch, "steps": steps}
    kinds = ("bf16", "fp16") if device.startswith("cuda") else ("bf16",)
    broken = 0
    for number, (family, amp) in enumerate((f, a) for f in families for a in kinds):
        if number and not deadline.left:
            found[f"{family} {amp}"] = "no time was left"
            continue
        name = f"{family}-{amp}"
        run = opened(drawn(name, family, amp, size=size, steps=steps, batch=batch), folder, device)
        for model, home in train_models(run).items():
            state = load_file(home / "model.safetensors")
            record = read_record(home)
            finite = all(bool(value.isfinite().all()) for value in state.values())
            finite = finite and _finite(record)
            broken += not finite
            live = run.home / "training" / str(model) / "last.pt"
            found[f"{family} {amp} {model.role}"] = {
                "finite": finite,
                "precision": record.precision_why,
                "step_ms": record.step_ms,
                "ap": record.last_ap,
                "losses": _losses(record),
                "loss_scale": torch.load(live, weights_only=True)["scaler"].get("scale"),
            }
    return found, [Goal(name="trainings that are not finite", value=float(broken), limit=0)]


def _finite(record: TrainingRecord) -> bool:
    return all(math.isfinite(value) for row in record.rows for value in row.values() if value)


def _losses(record: TrainingRecord) -> dict[str, JsonValue]:
    last: Mapping[str, float | None] = record.rows[-1] if record.rows else {}
    return {name: value for name, value in last.items() if name.startswith("loss/")}


def photographs(
    deadline: Deadline,
    *,
    device: str,
    size: int,
    batch: int,
    steps: int | None,
    data: Path | None,
    folder: Path,
) -> Found:
    """Train teacher, plain and distilled student on photographs; `steps` of None fills the time."""
    if data is None:
        raise SkippedError("give a folder of photographs with --data")
    settings = photographed("photographs", data, size=size, steps=steps or TRIAL, batch=batch)
    if steps is None:
        steps = _affordable({**settings, "name": "trial"}, folder, device, deadline)
        for train in (settings["train"], settings["teacher"]["train"]):
            train["steps"] = steps
    found: dict[str, JsonValue] = {"size": size, "batch": batch, "steps": steps}
    aps: dict[str, float | None] = {}
    for name, home in train_models(opened(settings, folder, device)).items():
        record = read_record(home)
        aps[name.role] = record.last_ap
        found[name.role] = {"ap": record.last_ap, "seconds": record.seconds}
    plain, distilled = aps["baseline"], aps["student"]
    found["gain"] = None if plain is None or distilled is None else distilled - plain
    return found, []


def _affordable(settings: Settings, folder: Path, device: str, deadline: Deadline) -> int:
    """Return the steps of each of the three trainings that fit into the time, by a short trial."""
    began = time.monotonic()
    folders = train_models(opened(settings, folder, device))
    records = [read_record(home) for home in folders.values()]
    in_steps = sum(record.seconds or 0.0 for record in records)
    beside = time.monotonic() - began - in_steps  # evaluations and the start of the workers
    return max(TRIAL, int(SHARE * (deadline.left - beside) / (in_steps / TRIAL)))
