"""Assemble the report of a run from the files of its stages."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.accuracy import COCO
from benchmarks.accuracy.ceiling import ceiling_warnings
from benchmarks.accuracy.deployed import deployed_accuracy
from benchmarks.accuracy.gain_statistics import bootstrap_gain, gain_interval, verdict
from benchmarks.accuracy.metric import CocoResult
from benchmarks.data.image_set import coco_ground_truth
from benchmarks.report.content import speed_of, write_report
from benchmarks.report.samples import sample_grid
from benchmarks.report.schema import Gain, Picture, ReportData, ReportRow, Speed, TrainingRun
from benchmarks.timing.environment import environment
from benchmarks.timing.latency import ratio_ci
from benchmarks.timing.records import Timing
from benchmarks.timing.timed_curves import TimedCurves, timed_curves
from compress.data.leaks import leak_warnings
from compress.distillation.distiller import advice
from compress.recipe import Recipe
from compress.recipe_file import complete_text
from compress.stages.artifacts import REFUSED
from compress.stages.classifier import NAME as CLASSIFIER
from compress.stages.classifier import describe_accuracy
from compress.stages.model_name import ModelName, Role
from compress.stages.opened import Run
from compress.stages.rundir import (
    file_teacher_notes,
    read_record,
    read_step_ratio,
    read_teaching_costs,
    teaching_ms,
)
from compress.stages.ship import Evaluated
from compress.stages.students import Folders
from compress.training.conditions import changes
from export.artifact import preprocessing
from export.artifact.int8_range import saturation_at
from export.artifact.manifest import NOTICE, read_manifest
from export.errors import counted

SHIPPED = ("onnxruntime", "fp32")  # gains are those of the exported files
PICTURES = 8


def summarize(
    run: Run,
    folders: Folders,
    table: Sequence[ReportRow],
    accuracy: Evaluated,
    latency: Mapping[str, Timing],
    out: Path,
) -> Path:
    """Write the report into `out`; return its HTML page."""
    training = {str(name): _training(name, folder) for name, folder in folders.items()}
    data = json.loads((run.home / "data.json").read_text(encoding="utf-8"))
    report = ReportData(
        schema=1,
        name=run.recipe.name,
        environment={**environment(), "device": str(run.session.torch_device())},
        preprocessing=preprocessing.VERSION,
        training=training,
        gain=_gain(run, accuracy),
        equal_time=read_step_ratio(run.home) if run.recipe.has_equal_time else None,
        timed=_timed(run, folders),
        rows=tuple(_rows(run, table, accuracy)),
        speed=tuple(_speed(run.recipe, latency)),
        per_class={_title(row): row.per_class for row in table if row.backend != "torch"},
        pictures=tuple(_pictures(run, out)),
        data=data,
        recipe=complete_text(run.source),
        notes=tuple(_notes(run, folders)),
        warnings=(
            *leak_warnings(data.get("leaks", {}), data.get("alike", {})),
            *_full_pictures(run),
            *_warnings(folders),
            *_of_artifacts(run.home),
        ),
    )
    return write_report(report, out)


def _rows(run: Run, table: Sequence[ReportRow], accuracy: Evaluated) -> Iterator[ReportRow]:
    """Add to each row its accuracy at the score threshold of use, and that of the other seeds."""
    truth = coco_ground_truth(run.data.val)
    for row in table:
        results = _predictions(run, str(row.key))
        deployed = deployed_accuracy(results, truth, run.recipe.export.score_threshold)
        aps: tuple[float, ...] = ()
        role = ModelName.parse(str(row.name)).role
        if role != "teacher" and run.recipe.seeds > 1 and (row.backend, row.precision) == SHIPPED:
            aps = tuple(_ap(accuracy, seed, role) for seed in run.seeds)
        yield row.model_copy(update={"deployed": deployed, "seed_aps": aps})


def _ap(accuracy: Evaluated, seed: int, role: Role) -> float:
    return accuracy[ModelName(seed, role).key(*SHIPPED)][COCO].values["AP"] or 0.0


def _training(name: ModelName, folder: Path) -> TrainingRun:
    record = read_record(folder).model_dump(mode="json")
    rows, title = record.pop("rows"), name.role if name.finished else name.title
    return TrainingRun.model_validate({**record, "model": title, "curve": rows})


def _timed(run: Run, folders: Folders) -> TimedCurves | None:
    """Return AP of plain and distilled trainings against time; None without a baseline."""
    recipe = run.recipe
    if not recipe.has_baseline:
        return None
    names: dict[tuple[str, int], list[ModelName]] = {}
    for seed in run.seeds:
        names["baseline", seed] = run.stages_of(seed, "baseline")
        names["student", seed] = run.stages_of(seed, "student")
        if recipe.has_equal_time:
            longer = ModelName(seed, "baseline_equal_time")
            names[longer.role, seed] = [longer]
    records = {key: [read_record(folders[name]) for name in own] for key, own in names.items()}
    return timed_curves(
        {key: [record.rows for record in own] for key, own in records.items()},
        (taken.device for own in records.values() for one in own for taken in one.conditions),
        workers=recipe.train.workers,
        taught_s=teaching_ms(run.home) / 1000,
    )


def _title(row: ReportRow) -> str:
    model = row.name if row.model == "teacher" else row.model
    return f"{model} {row.backend} {row.precision}"


def _gain(run: Run, accuracy: Evaluated) -> Gain | None:
    recipe = run.recipe
    if not recipe.has_baseline:
        return None
    gain = _with_bootstrap(run, _paired(recipe, accuracy, "baseline"), "baseline")
    if recipe.has_equal_time:
        longer: Role = "baseline_equal_time"
        equal_time = _with_bootstrap(run, _paired(recipe, accuracy, longer), longer)
        gain = gain.model_copy(update={"equal_time": equal_time})
    return gain


def _with_bootstrap(run: Run, gain: Gain, other: Role) -> Gain:
    """Add to the gain of one seed an interval over the validation pictures."""
    if run.recipe.seeds > 1:
        return gain
    roles: tuple[Role, Role] = ("student", other)
    student, baseline = (
        _predictions(run, ModelName(run.recipe.seed, role).key(*SHIPPED)) for role in roles
    )
    interval = bootstrap_gain(student, baseline, coco_ground_truth(run.data.val))
    return gain.model_copy(update={"bootstrap": interval})


def _paired(recipe: Recipe, accuracy: Evaluated, other: Role) -> Gain:
    differences = [
        _ap(accuracy, seed, "student") - _ap(accuracy, seed, other)
        for seed in range(recipe.seed, recipe.seed + recipe.seeds)
    ]
    return Gain(
        ap=sum(differences) / len(differences),
        ci95=gain_interval(differences),
        seeds=len(differences),
        verdict=verdict(differences),
        per_seed=tuple(differences),
    )


def _predictions(run: Run, key: str) -> list[CocoResult]:
    path = run.home / "evaluation" / key / "predictions.json"
    found: list[CocoResult] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _speed(recipe: Recipe, latency: Mapping[str, Timing]) -> list[Speed]:
    """Compare the student's artifacts with the last teacher's fp32 one, if there is a teacher."""
    if not recipe.teachers:
        return []
    teacher = ModelName.of_teacher(len(recipe.teachers) - 1)
    reference = teacher.key(*SHIPPED)
    found = []
    for precision in recipe.export.precisions:
        key = ModelName(recipe.seed, "student").key("onnxruntime", precision)
        # Refused, made for another runtime, or fp16, which the CPU computes in fp32.
        if key not in latency or precision == "fp16":
            continue
        titles = f"student onnxruntime {precision}", f"{teacher} onnxruntime fp32"
        slow, fast = latency[reference], latency[key]
        engine = ratio_ci(slow.engine_blocks, fast.engine_blocks)
        end_to_end = ratio_ci(slow.end_to_end_blocks, fast.end_to_end_blocks)
        found.append(speed_of(*titles, "engine", engine))
        found.append(speed_of(*titles, "end_to_end", end_to_end))
    return found


def _pictures(run: Run, out: Path) -> list[Picture]:
    """Draw pictures spread over the split with the detections of each exported model."""
    recipe, images = run.recipe, run.data.val
    count = min(PICTURES, len(images))
    indices = [round(i * (len(images) - 1) / max(1, count - 1)) for i in range(count)]
    student = ModelName(recipe.seed, "student")
    teachers = [ModelName.of_teacher(index) for index in range(len(recipe.teachers))]
    baseline = [ModelName(recipe.seed, "baseline")] if recipe.has_baseline else []
    names = [*teachers[-1:], *baseline, student]
    columns = {name.title: _predictions(run, name.key(*SHIPPED)) for name in names}
    int8 = student.key("onnxruntime", "int8")
    if (run.home / "evaluation" / int8).exists():
        columns["student int8"] = _predictions(run, int8)
    threshold = recipe.export.score_threshold
    path = sample_grid(images, indices, columns, threshold, out / "pictures.jpg")
    caption = (
        f"Validation pictures with boxes that score {threshold:g} or higher, detected by the ONNX "
        "files in fp32 unless stated otherwise."
    )
    return [Picture(path=path.name, caption=caption)]


def _notes(run: Run, folders: Folders) -> list[str]:
    recipe = run.recipe
    notes = [
        *_licence_notes(run.home),
        "AP is COCO's, by pycocotools, on letterboxed pictures and from the artifact of the row. "
        "It is not comparable with figures in papers.",
        f"The exported weights are those of the {recipe.train.keep} evaluation of each training.",
        "Paths in report.json are relative to the report's folder.",
    ]
    if recipe.teacher is None:
        notes.append("One detector was trained without a teacher, so there is no gain to report.")
    notes += file_teacher_notes(run.home)
    for index in range(len(recipe.teachers)):
        name = ModelName.of_teacher(index)
        if read_record(folders[name]).loaded:
            notes.append(
                f"The {name} was loaded, not trained; the table does not include its training."
            )
    if len(recipe.teachers) > 1:
        notes.append(
            f"The student was distilled from {len(recipe.teachers)} teachers in turn, each for a "
            "full schedule; the baseline was trained for as many schedules without a teacher."
        )
    classifier = run.home / "models" / CLASSIFIER
    if classifier.exists():
        said = describe_accuracy(read_record(classifier).accuracy)
        notes.append(f"The student was also distilled from a classifier of object crops: {said}.")
    for name, folder in folders.items():
        record = read_record(folder)
        weights = record.auto_weights
        if weights:
            chosen = ", ".join(f"{loss} {value:.3g}" for loss, value in weights.items())
            notes.append(f"Loss weights chosen by `weight: auto` for {name}: {chosen}.")
        measured = record.terms
        if measured:
            step = measured[-1].step
            sizes = ", ".join(
                f"{term.name} {term.ratio:.2g} ({term.gradient_ratio:.2g})"
                for term in measured
                if term.step == step
            )
            notes.append(
                f"Distillation terms of {name} relative to the task loss (and their gradients "
                f"relative to its gradient at the shared features) after {step} steps: {sizes}."
            )
    notes += [
        f"Outputs of the {name}: {cost.sentence()}."
        for name, cost in read_teaching_costs(run.home).items()
    ]
    notes += _equal_time_notes(run, folders)
    notes += _precision_notes(folders)
    if "fp16" in recipe.export.precisions:
        notes.append(
            "ONNX Runtime's CPU kernels compute FP16 files in FP32 and convert before and after; "
            "the latency of those rows does not apply to a GPU."
        )
    if "int8-trt" in recipe.export.precisions:
        notes.append(
            "int8-trt is the symmetric quantisation that TensorRT builds engines from: AP is "
            "measured in ONNX Runtime, latency only on a device with TensorRT."
        )
    if "fp8" in recipe.export.precisions:
        notes.append(
            "fp8 is for TensorRT on SM 8.9 and later: AP is measured in ONNX Runtime, which rounds "
            "to E4M3 and computes in FP32; latency only on such a GPU."
        )
    return notes


def _licence_notes(home: Path) -> list[str]:
    """Return the notices of packages under other licences, as the exported files state them."""
    sidecars = sorted((home / "export").glob("*/model.json"))
    made_by = [read_manifest(path).made_by for path in sidecars]
    return list(dict.fromkeys(made[NOTICE] for made in made_by if NOTICE in made))


def _equal_time_notes(run: Run, folders: Folders) -> list[str]:
    """Return how many baseline steps cost as much as the student's, and how that was measured."""
    ratio = read_step_ratio(run.home)
    if not run.recipe.has_equal_time:
        return []
    if ratio is None:
        return [
            "The run has no record of how the steps of the equal-time baseline were found: it was "
            "deleted, or an earlier version compared wall times measured at different times."
        ]
    found = []
    for seed in run.seeds:
        longer = read_record(folders[ModelName(seed, "baseline_equal_time")]).steps
        names = run.stages_of(seed, "student")
        taken = sum(read_record(folders[name]).steps for name in names)
        found.append(f"{counted(longer, 'plain step')} for {taken} distilled")
    counts = "; ".join(dict.fromkeys(found))
    once = teaching_ms(run.home)
    stored = ""
    if once:
        stored = f", and storing the outputs of the teacher as much as {once / ratio.plain_ms:.0f}"
    return [
        f"Equal time is equal cost: {counts}, as {ratio.sentence()}{stored}. Training of the "
        "teacher and of a classifier is not counted."
    ]


def _precision_notes(folders: Folders) -> list[str]:
    """Return the precision of each training with its reason; one sentence if all are equal."""
    found: dict[str, list[str]] = {}
    for name, folder in folders.items():
        why = read_record(folder).precision_why
        if why:
            found.setdefault(why, []).append(str(name))
    if len(found) == 1:
        return [f"Precision of training: {why}." for why in found]
    return [f"Precision of training: {why} ({', '.join(names)})." for why, names in found.items()]


def _full_pictures(run: Run) -> list[str]:
    sets = {"val": run.data.val, "train": run.data.train}
    return ceiling_warnings(sets, run.recipe.export.max_detections)


def _of_artifacts(home: Path) -> list[str]:
    """Return why requested artifacts are not in the table, and which this processor spoils."""
    found = sorted((home / "export").glob(f"*/{REFUSED}"))
    refused = [json.loads(path.read_text(encoding="utf-8"))["reason"] for path in found]
    made = sorted((home / "export").glob("*/model.onnx"))
    cautions = [(path.parent.name, saturation_at(path, "cpu")) for path in made]
    return [*refused, *(f"{name}: {said}" for name, said in cautions if said is not None)]


def _warnings(folders: Folders) -> list[str]:
    lines = []
    for name, folder in folders.items():
        record = read_record(folder)
        lines += [f"{name}: {line}" for line in advice(record.terms_at_first_step)]
        if record.stopped:
            lines.append(f"{name}: stopped early: {record.stopped}")
        lines += [f"{name}: {change}" for change in changes(record.conditions)]
        lines += [
            f"{name}: its weights file matched only in part: {said}"
            for said in record.loaded_in_part
        ]
    return lines + _between_trainings(folders)


def _between_trainings(folders: Folders) -> list[str]:
    """Return which trainings began under other conditions than the first one."""
    begun = [(name, read_record(folder).conditions[:1]) for name, folder in folders.items()]
    known = [(name, conditions[0]) for name, conditions in begun if conditions]
    if not known:
        return []
    first_name, first = known[0]
    return [
        f"{name} was trained {now.words(first)}, {first_name} {first.words(now)}: the run is not "
        "bit for bit one that was not interrupted"
        for name, now in known[1:]
        if now.words(first)
    ]
