"""Read AP and gains from finished run folders; trains nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue
from typing_extensions import NotRequired, TypedDict

from benchmarks.accuracy.gain_statistics import gain_interval, verdict
from compress.stages.model_name import ModelName, Role

SHIPPED = ("onnxruntime", "fp32")


class Gain(TypedDict):
    """Gain over the plain student, 0..1 scale: mean, 95 % interval, verdict, and every seed's."""

    mean: float
    ci95: tuple[float, float] | None
    verdict: str
    per_seed: list[float]


class Comparison(TypedDict):
    """Gain of the exported files, and of the models at the end of their training."""

    gain: Gain
    gain_torch: Gain


class Costs(TypedDict):
    """Length of a training and size of its model."""

    steps: int
    step_ms: float
    parameters: int | None


class TeacherRecord(Costs):
    """AP of the exported teacher and of the trained one, 0..1."""

    ap_onnx: float
    ap_torch: float | None


class StudentRecord(Costs):
    """AP of the exported students and of the trained ones, seed by seed, 0..1."""

    ap_onnx: list[float]
    ap_torch: list[float]


class StepCost(TypedDict):
    """Cost of a distilled step in plain ones, see `benchmarks/timing/step_ratio.py`.

    `once_ms` is what the teacher cost before the training, where its outputs were stored.
    """

    ratio: float
    ci95: tuple[float, float]
    clock: str
    once_ms: NotRequired[float]


class EqualTime(StudentRecord, Comparison):
    """A plain student trained at the same cost as the distilled one, and the gain over it.

    Results of versions without interleaved timing have no `step_ratio`: their number of steps comes
    from wall times that were measured at different times.
    """

    step_ratio: NotRequired[StepCost]


class MethodGain(StudentRecord, Comparison):
    """Students of one method, and their gain over the plain ones."""

    distill: list[dict[str, JsonValue]]
    equal_time: NotRequired[EqualTime | None]


class Table(TypedDict):
    """One base recipe in one regime."""

    recipe: str
    regime: str
    labels: int
    unlabeled: int
    teacher: TeacherRecord
    plain: StudentRecord
    methods: dict[str, MethodGain]
    failed: dict[str, str]
    environment: dict[str, JsonValue]


class Gains(TypedDict):
    """Content of `gain_<data>.json`."""

    schema: int
    data: str
    tables: dict[str, Table]


class TrainSplit(TypedDict, total=False):
    """Settings of the training split; None where the recipe gives none."""

    split: str | None
    limit: int | None
    seed: int | None
    count: int | None
    rest: bool | None


class DataSettings(TypedDict):
    """The `data` section of a recipe."""

    type: str
    train: TrainSplit
    root: NotRequired[str]


class Settings(TypedDict):
    """The parts of a run's resolved recipe that this module reads."""

    seed: int
    seeds: int
    data: DataSettings


class _Training(TypedDict):
    steps: int
    step_ms: NotRequired[float]
    parameters: NotRequired[int | None]
    rows: list[dict[str, float | None]]


def locked(home: Path) -> Settings:
    """Read the settings that a run was made with."""
    found: Settings = json.loads(_text(home / "recipe.lock.json"))
    return found


def split_sizes(home: Path) -> dict[str, int]:
    """Read the number of pictures by role of the split."""
    splits = json.loads(_text(home / "data.json"))["splits"]
    return {role: int(split["images"]) for role, split in splits.items()}


def teacher_of(home: Path) -> TeacherRecord:
    """Read the figures of a run's teacher."""
    name = ModelName.of_teacher(0)
    training = _training(home, name)
    return {
        "ap_onnx": _exported_ap(home, name),
        "ap_torch": _last_ap(training) if training["rows"] else None,
        **_costs([training]),
    }


def students_of(home: Path) -> StudentRecord:
    """Read the figures of a run's students."""
    names = seed_names(home, "student")
    training = [_training(home, name) for name in names]
    return {
        "ap_onnx": [_exported_ap(home, name) for name in names],
        "ap_torch": [_last_ap(record) for record in training],
        **_costs(training),
    }


def compare(plain: Path, taught: Path) -> Comparison:
    """Return the gain of the students of one run over those of another, seed by seed."""
    own, other = students_of(taught), students_of(plain)
    return {
        "gain": gain(own["ap_onnx"], other["ap_onnx"]),
        "gain_torch": gain(own["ap_torch"], other["ap_torch"]),
    }


def gain(taught: Sequence[float], plain: Sequence[float]) -> Gain:
    """Return the mean of the paired differences, its 95 % interval over seeds, and the verdict."""
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
    values = json.loads(_text(home / "evaluation" / name.key(*SHIPPED) / "ap.json"))["values"]
    return float(values["AP"] or 0.0)


def _training(home: Path, name: ModelName) -> _Training:
    found: _Training = json.loads(_text(home / "models" / str(name) / "training.json"))
    return found


def _costs(training: Sequence[_Training]) -> Costs:
    return {
        "steps": training[0]["steps"],
        "step_ms": round(_mean([record.get("step_ms", 0.0) for record in training]), 2),
        "parameters": training[0].get("parameters"),
    }


def _last_ap(record: _Training) -> float:
    return float(record["rows"][-1]["AP"] or 0.0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
