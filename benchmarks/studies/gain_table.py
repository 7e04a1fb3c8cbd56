"""What finished runs say of a gain; reads run folders, trains nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy.gain_statistics import gain_interval, verdict
from compress.stages.model_name import ModelName, Role

SHIPPED = ("onnxruntime", "fp32")


def locked(home: Path) -> dict[str, Any]:
    """Every setting that a run was made with."""
    return _json(home / "recipe.lock.json")


def split_sizes(home: Path) -> dict[str, int]:
    """Role -> pictures."""
    splits = _json(home / "data.json")["splits"]
    return {role: int(split["images"]) for role, split in splits.items()}


def record_of(home: Path, role: Role) -> dict[str, Any]:
    """How one model of a run turned out: a student's figures per seed, the teacher's alone.

    `ap_onnx` is of the exported file, `ap_torch` of the model at the end of its training; 0..1.
    """
    names = [ModelName.of_teacher(0)] if role == "teacher" else seed_names(home, role)
    training = [_json(home / "models" / str(name) / "training.json") for name in names]
    found = {
        "ap_onnx": [_exported_ap(home, name) for name in names],
        "ap_torch": [_last_ap(record) for record in training],
        "steps": training[0]["steps"],
        "step_ms": round(_mean([record.get("step_ms", 0.0) for record in training]), 2),
        "parameters": training[0].get("parameters"),
    }
    if role != "teacher":
        return found
    return {key: value[0] if isinstance(value, list) else value for key, value in found.items()}


def compare(plain: Path, taught: Path) -> dict[str, Any]:
    """Gain of the students of one run over those of another, seed by seed, 0..1 scale."""
    own, other = record_of(taught, "student"), record_of(plain, "student")
    return {
        "gain": gain(own["ap_onnx"], other["ap_onnx"]),
        "gain_torch": gain(own["ap_torch"], other["ap_torch"]),
    }


def gain(taught: Sequence[float], plain: Sequence[float]) -> dict[str, Any]:
    """Mean of the paired differences, its 95 % interval over seeds, and what it proves."""
    differences = [a - b for a, b in zip(taught, plain, strict=True)]
    return {
        "mean": _mean(differences),
        "ci95": gain_interval(differences),
        "verdict": verdict(differences),
        "per_seed": differences,
    }


def seed_names(home: Path, role: Role) -> list[ModelName]:
    """Name the models of one role, seed by seed."""
    recipe = locked(home)
    return [ModelName(recipe["seed"] + n, role) for n in range(recipe["seeds"])]


def _exported_ap(home: Path, name: ModelName) -> float:
    values = _json(home / "evaluation" / name.key(*SHIPPED) / "ap.json")["values"]
    return float(values["AP"] or 0.0)


def _last_ap(record: Mapping[str, Any]) -> float | None:
    rows = record["rows"]
    return float(rows[-1]["AP"] or 0.0) if rows else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
