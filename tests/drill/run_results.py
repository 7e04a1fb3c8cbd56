"""What a run folder holds that two equal runs must have in common, and how far a run has come."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing.step_ratio import StepRatio
from compress.stages.rundir import TEACHING, teaching_ms
from compress.stages.teaching.costs import STORES
from export.artifact.manifest import file_sha256

Results = dict[str, Any]  # name of a result -> its value

# Stages in the order of the run, with the files and folders that each leaves behind.
STAGES: dict[str, tuple[str, ...]] = {
    "teacher": ("models/teacher",),
    "teach": ("teach.json",),
    "step ratio": ("equal_time.json",),
    "baseline": ("models/seed0-baseline",),
    "student": ("models/seed0-student",),
    "equal-time baseline": ("models/seed0-baseline_equal_time",),
    "export": ("export/*-fp32",),
    "int8": ("export/*-int8",),
    "accuracy": ("evaluation/*-fp32", "evaluation/*-int8"),
    "latency": ("latency",),
    "bundle": ("bundle", "bundle.tar.gz"),
    "report": ("report",),
}
# Results of a measurement of time or memory, which differ from run to run.
MEASURED = frozenset(
    {"seconds", "processor_seconds", "step_ms", "peak_memory_mb", "price", "conditions"}
)
OF_ROWS = (
    "key",
    "model",
    "precision",
    "sha256",
    "ap",
    "per_class",
    "deployed",
    "metrics",
    "size_mb",
)
LONGER = "baseline_equal_time"
SLOW = frozenset({"export", "latency"})


@dataclass(frozen=True)
class Stages:
    """The stages of an undisturbed run: which paths each one left, and how long it took.

    Attributes:
        home: the run's folder.
        paths: relative paths by stage.
        seconds: by stage, from the end of the one before.
    """

    home: Path
    paths: Mapping[str, tuple[str, ...]]
    seconds: Mapping[str, float]

    @classmethod
    def of(cls, home: Path) -> "Stages":
        """Return the stages of a finished run; those that its recipe leaves out are not there."""
        paths, seconds = {}, {}
        before = (home / "recipe.yaml").stat().st_mtime
        for stage, patterns in STAGES.items():
            found = sorted(path for pattern in patterns for path in home.glob(pattern))
            if not found:
                continue
            paths[stage] = tuple(path.relative_to(home).as_posix() for path in found)
            end = max(path.stat().st_mtime for path in found)
            seconds[stage] = max(0.05, end - before)
            before = max(before, end)
        return cls(home, paths, seconds)

    def present(self, home: Path) -> str:
        """Return the first stage that is not finished in another folder of this run."""
        for stage, paths in self.paths.items():
            if not all((home / path).exists() for path in paths):
                return stage
        return "end"

    def copy_before(self, stage: str, home: Path) -> None:
        """Copy the run without the results of `stage` and of those after it.

        Of what takes most of the time, ONNX export and latency, later results are kept; from
        `export` on itself all folders but one are.

        Args:
            stage: the stage, or "end" for a whole copy.
            home: the copy; beside it, the stores of teachers that `stage` reads.
        """
        shutil.copytree(self.home, home)
        stores = home.parent / STORES
        shutil.rmtree(stores, ignore_errors=True)
        if stage not in {"teacher", "teach"} and (self.home.parent / STORES).exists():
            shutil.copytree(self.home.parent / STORES, stores)
        names = [*self.paths, "end"]
        for later in names[names.index(stage) : -1]:
            if later in SLOW and later != stage:
                continue
            gone = self.paths[later]
            for path in gone[-1:] if later == "export" else gone:
                _remove(home / path)
                if path.startswith("models/"):
                    _remove(home / "training" / Path(path).name)
            if later == "int8":
                _remove(home / "calibration")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def results_of(home: Path) -> Results:
    """Return everything in a finished run that an equal run must have too."""
    report = json.loads((home / "report" / "report.json").read_text(encoding="utf-8"))
    found: Results = {}
    for file in sorted(home.glob("models/*/*")):
        name = file.relative_to(home).as_posix()
        if file.suffix == ".json":
            found[name] = _unmeasured(json.loads(file.read_text(encoding="utf-8")))
        else:
            found[name] = file_sha256(file)
    for file in sorted([*home.glob("export/*/model.onnx"), *home.glob("evaluation/*/*.json")]):
        found[file.relative_to(home).as_posix()] = file_sha256(file)
    for file in sorted((home.parent / STORES).rglob("*.safetensors")):
        found[f"store {file.name}"] = file_sha256(file)
    for row in report["rows"]:
        found[f"row {row['key']}"] = {name: row[name] for name in OF_ROWS if name in row}
        if row["backend"] != "torch" or "engine" in str(row.get("latency_ms")):
            found[f"timed {row['key']}"] = row["latency_ms"] is not None
        saved = home / "report" / row["predictions"]
        found[f"predictions {row['key']}"] = file_sha256(saved)
    equal = (report["gain"] or {}).pop("equal_time", None)
    found |= {"gain": report["gain"], "equal time": equal, "speed": len(report["speed"])}
    found["training"] = _unmeasured(report["training"])
    found["page"] = sorted(path.name for path in (home / "report").iterdir())
    bundle = json.loads((home / "bundle" / "bundle.json").read_text(encoding="utf-8"))
    found["bundle"] = sorted(bundle["files"])
    for file, sha256 in bundle["files"].items():
        if file.endswith((".onnx", ".npy", ".txt")):
            found[f"bundle/{file}"] = sha256
    return found


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _same_teaching(home: Path, whole: Path) -> bool:
    return _bytes(home / TEACHING) == _bytes(whole / TEACHING)


def _unmeasured(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _unmeasured(one) for name, one in tree.items() if name not in MEASURED}
    return [_unmeasured(one) for one in tree] if isinstance(tree, list) else tree


def differences(home: Path, whole: Path, expected: Results) -> Iterator[str]:
    """Yield which results of a run are not those of the undisturbed one.

    Where the cost of a distilled step was measured again, the equal-time baseline may have another
    number of steps; that number must then follow from the record of the measurement.
    """
    try:
        found, expected = results_of(home), dict(expected)
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"the run ended without its results: {error!r}"
        return
    ratio, before = (at / "equal_time.json" for at in (home, whole))
    if not ratio.is_file() and before.exists():
        notes = (home / "report" / "report.json").read_text(encoding="utf-8")
        made_before = "Equal time is equal cost of the steps" in notes
        if "has no record of how the steps" not in notes and not made_before:
            yield "the report does not say that the record of equal time is gone"
    elif before.exists() and (_bytes(ratio) != _bytes(before) or not _same_teaching(home, whole)):
        taken = found["models/seed0-student/training.json"]["steps"]
        steps = found["training"][f"seed0-{LONGER}"]["steps"]
        record = StepRatio.model_validate_json(ratio.read_bytes())
        # a store may have been made anew after the baseline was trained
        costs = {teaching_ms(home), teaching_ms(whole)}
        if steps not in {record.plain_steps(taken, once) for once in costs}:
            yield f"the equal-time baseline took {steps} steps, not those of its record"
        for results in (found, expected):
            results["training"] = {n: t for n, t in results["training"].items() if LONGER not in n}
            for name in [name for name in results if LONGER in name or name == "equal time"]:
                del results[name]
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            yield f"{name}: {str(found.get(name))[:80]}, undisturbed {str(expected.get(name))[:80]}"
    for left in home.parent.rglob("*.partial"):
        yield f"{left.relative_to(home.parent)} is left behind"
