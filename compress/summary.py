"""Assemble what the report tells from what the stages left behind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.coco_images import coco_ground_truth
from benchmarks.deployed import deployed_accuracy
from benchmarks.environment import environment
from benchmarks.latency import ratio_ci
from benchmarks.report import Gain, Picture, ReportData, ReportRow, Speed, TrainingRun, write_report
from benchmarks.samples import sample_grid
from benchmarks.statistics import bootstrap_gain, gain_interval, verdict
from compress.data import Data
from compress.recipe import Recipe
from compress.session import Session

Measured = dict[str, dict[str, Any]]
SHIPPED = "onnxruntime-fp32"  # gains are those of the exported files
PICTURES = 8


def summarize(
    session: Session,
    recipe: Recipe,
    text: str,
    data: Data,
    rooms: dict[str, Path],
    table: list[dict[str, Any]],
    accuracy: Measured,
    latency: Measured,
    out: Path,
) -> Path:
    """Write the report into `out`; return its HTML page."""
    training = {name: _training(name, room) for name, room in rooms.items()}
    report = ReportData(
        schema=1,
        name=recipe.name,
        environment={**environment(), "device": str(session.torch_device())},
        training=training,
        gain=_gain(session, recipe, data, accuracy),
        rows=tuple(_rows(recipe, data, table, out)),
        speed=tuple(_speed(recipe, latency)),
        per_class={_title(r): r["per_class"] for r in table if r["backend"] != "torch"},
        pictures=tuple(_pictures(session, recipe, data, out)),
        data=json.loads((session.home / "data.json").read_text(encoding="utf-8")),
        recipe=text,
        notes=tuple(_notes(recipe, rooms)),
        warnings=tuple(_warnings(rooms)),
    )
    return write_report(report, out)


def _rows(
    recipe: Recipe, data: Data, table: list[dict[str, Any]], out: Path
) -> Iterator[ReportRow]:
    """The rows of the table, with what is left of their accuracy at the threshold of use."""
    truth = coco_ground_truth(data.val)
    for row in table:
        results = json.loads((out / row["predictions"]).read_text(encoding="utf-8"))
        deployed = deployed_accuracy(results, truth, recipe.export.score_threshold)
        yield ReportRow.model_validate({**row, "deployed": deployed})


def _training(name: str, room: Path) -> TrainingRun:
    record = json.loads((room / "training.json").read_text(encoding="utf-8"))
    role = name.partition("-")[2] or "teacher"
    return TrainingRun.model_validate(
        {**record, "model": role, "seed": record.get("seed", 0), "curve": record.pop("rows")}
    )


def _title(row: dict[str, Any]) -> str:
    return f"{row['model']} {row['backend']} {row['precision']}"


def _gain(session: Session, recipe: Recipe, data: Data, accuracy: Measured) -> Gain | None:
    if not recipe.baseline.enabled:
        return None
    gain = _paired(recipe, accuracy, "baseline")
    if recipe.baseline.equal_time and recipe.distill:
        gain = gain.model_copy(
            update={"equal_time": _paired(recipe, accuracy, "baseline_equal_time")}
        )
    if recipe.seeds == 1:
        student, baseline = (
            _predictions(session, f"seed{recipe.seed}-{role}-{SHIPPED}")
            for role in ("student", "baseline")
        )
        luck = bootstrap_gain(student, baseline, coco_ground_truth(data.val))
        gain = gain.model_copy(
            update={"bootstrap": {"ap": luck.ap, "ci95": list(luck.ci95), "samples": luck.samples}}
        )
    return gain


def _paired(recipe: Recipe, accuracy: Measured, other: str) -> Gain:
    differences = []
    for seed in range(recipe.seed, recipe.seed + recipe.seeds):
        student, against = (
            accuracy[f"seed{seed}-{role}-{SHIPPED}"]["values"]["AP"] or 0.0
            for role in ("student", other)
        )
        differences.append(student - against)
    return Gain(
        ap=sum(differences) / len(differences),
        ci95=gain_interval(differences),
        seeds=len(differences),
        verdict=verdict(differences),
        per_seed=tuple(differences),
    )


def _predictions(session: Session, key: str) -> list[Any]:
    path = session.home / "evaluation" / key / "predictions.json"
    found: list[Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _speed(recipe: Recipe, latency: Measured) -> list[Speed]:
    """How much faster the student's artifacts are than the teacher's fp32 one."""
    reference = f"teacher-{SHIPPED}"
    found = []
    for precision in recipe.export.precisions:
        key = f"seed{recipe.seed}-student-onnxruntime-{precision}"
        for scope in ("engine", "end_to_end"):
            ratio = ratio_ci(latency[reference][f"{scope}_blocks"], latency[key][f"{scope}_blocks"])
            found.append(
                Speed.model_validate(
                    {
                        "model": f"student onnxruntime {precision}",
                        "reference": "teacher onnxruntime fp32",
                        "scope": scope,
                        "ratio": ratio.ratio,
                        "ci95": list(ratio.ci95),
                        "verdict": ratio.verdict,
                    }
                )
            )
    return found


def _pictures(session: Session, recipe: Recipe, data: Data, out: Path) -> list[Picture]:
    """Validation pictures spread over the split, with what each exported model sees on them."""
    count = min(PICTURES, len(data.val))
    indices = [round(i * (len(data.val) - 1) / max(1, count - 1)) for i in range(count)]
    roles = ["teacher", f"seed{recipe.seed}-student"]
    if recipe.baseline.enabled:
        roles.insert(1, f"seed{recipe.seed}-baseline")
    columns = {
        name.partition("-")[2] or name: _predictions(session, f"{name}-{SHIPPED}") for name in roles
    }
    int8 = f"seed{recipe.seed}-student-onnxruntime-int8"
    if (session.home / "evaluation" / int8).exists():
        columns["student int8"] = _predictions(session, int8)
    threshold = recipe.export.score_threshold
    path = sample_grid(data.val, indices, columns, threshold, out / "pictures.jpg")
    caption = (
        f"Validation pictures; boxes scored from {threshold:g}, found by the ONNX files: fp32 "
        "where nothing else is said."
    )
    return [Picture(path=path.name, caption=caption)]


def _notes(recipe: Recipe, rooms: dict[str, Path]) -> list[str]:
    notes = [
        "AP is COCO's, by pycocotools, on letterboxed pictures and from the artifact of the row; "
        "figures in papers are measured otherwise.",
        f"The weights shipped are those of the {recipe.train.keep} evaluation of each training.",
        "Paths in report.json are relative to the report's folder.",
    ]
    record = json.loads((rooms["teacher"] / "training.json").read_text(encoding="utf-8"))
    if record.get("loaded"):
        notes.append("The teacher was loaded, not trained here; its cost is not in the table.")
    return notes


def _warnings(rooms: dict[str, Path]) -> list[str]:
    from compress.distill import advice
    from compress.objective import Term

    lines = []
    for name, room in rooms.items():
        record = json.loads((room / "training.json").read_text(encoding="utf-8"))
        terms = [Term(**term) for term in record.get("terms_at_first_step", [])]
        lines += [f"{name}: {line}" for line in advice(terms)]
        if record.get("stopped"):
            lines.append(f"{name}: stopped early: {record['stopped']}")
    return lines
