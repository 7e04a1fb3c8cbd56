"""Run one recipe from data to report: check, train, export, measure, report."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from benchmarks.data.division import keep_division
from benchmarks.data.inspection import PictureCache
from benchmarks.gates import GateError, broken_gates, load_report
from benchmarks.timing.step_ratio import StepRatio
from compress.checks import check_models, check_training, wanted_classifier
from compress.console import Console
from compress.data.health import Health, data_health, data_lines
from compress.data.pictures import look_at_pictures
from compress.data.taught import Taught
from compress.losses.parts.classifier import Classifier
from compress.parts.licence import notice
from compress.recipe import Recipe, load_recipe
from compress.recipe_file import complete_text
from compress.recipe_source import Source
from compress.stages.classifier import classifier_folder, load_classifier
from compress.stages.model_name import ModelName
from compress.stages.opened import Run, own_data
from compress.stages.rundir import check_home, once, open_run, owned, require_unused
from compress.stages.session import Session, deterministic
from compress.stages.ship import (
    Contestant,
    bundle_student,
    evaluate_rows,
    export_all,
    load_contestant,
    report_rows,
    time_rows,
)
from compress.stages.students import Folders, StudentTraining
from compress.stages.summary import summarize
from compress.stages.teachers import load_teacher, measure_teacher, teacher_folder
from compress.stages.teaching.boxes import ask_file_teacher, compares_boxes, found_by_network
from compress.stages.teaching.features import ask_backbone
from compress.stages.teaching.files import FILE_TEACHER
from compress.stages.teaching.outputs import store_outputs
from compress.stages.track import run_trackers, track_report
from compress.teaching.beforehand import BoxTeacher
from export.atomic import write_json
from export.errors import RecipeError


def run(recipe: Recipe, source: Source, runs: Path, device: str, console: Console) -> Path:
    """Train teachers, baselines and students, export, measure, report; return the report's folder.

    Finished stages are kept and an interrupted one resumes. Processes other than the first train
    and return early.
    """
    opened, health = prepare(recipe, source, runs, device, console)
    session = opened.session
    if session.rank != 0:
        train_models(opened)
        return session.home / "report"
    with owned(session.home), run_trackers(session, recipe) as session.trackers:
        if opened.data.division is not None:
            keep_division(opened.data.division, session.home / "split.json")
        write_json(health.to_dict(), session.home / "data.json")
        folders = train_models(opened)
        rows = export_all(opened, load_models(opened, folders))
        accuracy = evaluate_rows(opened, rows)
        first = [row for row in rows if in_table(row.name, recipe)]
        latency = time_rows(opened, first)
        archive = bundle_student(opened, first)
        console.print(f"bundle for the device: {archive}")

        def report(out: Path) -> None:
            table = report_rows(opened, first, accuracy, latency, out)
            summarize(opened, folders, table, accuracy, latency, out)

        folder = once(session.home / "report", report)
        track_report(session.trackers, folder)
        check_gates(recipe, folder)
        return folder


def prepare(
    recipe: Recipe, source: Source, runs: Path, device: str, console: Console
) -> tuple[Run, Health]:
    """Check the recipe against its data and this machine, and make the run's folder.

    Raises:
        ToolkitError: a mistake that would stop the run before its first training step.
    """
    session = Session(runs / recipe.name, device, console)
    deterministic(session.torch_device())
    if session.rank == 0:  # before the data is read
        check_home(runs, recipe.name, recipe.resolved(), Recipe.resolved_anew)
        require_unused(session.home)
    opened = Run.open(session, recipe, source)
    cache = PictureCache(runs)
    pictures = (opened.data, *(teacher.data for teacher in opened.teachers))
    look_at_pictures(pictures, cache, console, decode=False)
    others = own_data(recipe, opened.teachers)
    health = data_health(opened.data, recipe.export.max_detections, others)
    for title, lines in data_lines(health, others).items():
        print_data(console, title, lines)
    student, teachers = check_models(opened)
    licence = notice(opened.licences([student, *teachers]))
    if licence:
        console.print(licence)
    check_training(opened)
    if session.rank == 0:
        look_at_pictures(pictures, cache, console, decode=True)
        open_run(runs, recipe.name, recipe.resolved(), complete_text(source), Recipe.resolved_anew)
        cache.save()
    if session.world > 1:
        session.fabric("32-true").barrier()
    return opened, health


def teach(recipe: Recipe, source: Source, runs: Path, device: str, console: Console) -> Path:
    """Train or load the teachers and store their outputs; return the run's folder.

    A later run of the same recipe goes on from there.

    Raises:
        RecipeError: the recipe stores nothing.
    """
    if recipe.file_teacher is not None:
        raise RecipeError(
            f"{source.at('teacher')}: a teacher of type {recipe.file_teacher.type} needs no "
            "pass of its own before the training; use slimdet run"
        )
    if not recipe.stores_outputs:
        raise RecipeError(
            f"{source.at('teach', beside=[('teacher',), ('distill',)])}: found no teach, teacher "
            "and distill, all of which are needed to store a teacher's outputs; write teach: "
            "{views: 8}"
        )
    opened, _ = prepare(recipe, source, runs, device, console)
    with owned(opened.home) if opened.session.rank == 0 else nullcontext():
        train_teachers(opened)
    return opened.home


def check_gates(recipe: Recipe, report: Path) -> None:
    """Compare the finished report with the recipe's reference.

    Raises:
        GateError: a limit is broken. The report has been written before.
    """
    gates = recipe.gates
    if gates is None or gates.reference is None:
        return
    broken = broken_gates(load_report(gates.reference), load_report(report), gates)
    if broken:
        raise GateError("gates: these limits are exceeded", *broken)


def print_data(console: Console, head: str, lines: Sequence[str]) -> None:
    """Print the format of the data and the findings of its health check."""
    console.print(head)
    for line in lines:
        console.print(f"  {line}")


def train_models(run: Run) -> Folders:
    """Train all models, teachers first; return their folders by name."""
    folders, students = train_teachers(run)
    aps = {t.name: measure_teacher(run, t, detector) for t, detector in students.teachers}
    for teacher in students.beforehand:
        if isinstance(teacher, BoxTeacher):
            aps[FILE_TEACHER] = teacher.ap
    for seed in run.seeds:
        folders |= students.train(seed, aps)
    return folders


def train_teachers(run: Run) -> tuple[Folders, StudentTraining]:
    """Train or load the teachers; return their folders and the distillation they provide."""
    folders = {t.name: teacher_folder(run, t) for t in run.teachers}
    ready = [(t, load_teacher(run, t, folders[t.name])) for t in run.teachers]
    classifier: Classifier | None = None
    wanted = wanted_classifier(run.recipe)
    if wanted is not None:
        classifier = load_classifier(run, wanted[0], classifier_folder(run, wanted[0]))
    file, backbone = run.recipe.file_teacher, run.recipe.backbone_teacher
    if file is not None:
        return folders, StudentTraining(run, ready, classifier, [ask_file_teacher(run, file)])
    if backbone is not None:
        return folders, StudentTraining(run, ready, classifier, [ask_backbone(run, backbone)])
    taught = [found_by_network(run, *one) for one in ready] if compares_boxes(run, ready) else []
    stored = []
    if run.recipe.stores_outputs:
        said: Sequence[Taught | None] = taught or [None] * len(ready)
        stored = [store_outputs(run, *one, own) for one, own in zip(ready, said, strict=True)]
    return folders, StudentTraining(run, ready, classifier, stored, taught)


def record_step_ratio(home: Path, device: str = "auto") -> StepRatio:
    """Measure the cost of a distilled step, record it in the run folder and return the record."""
    session = Session(home, device, Console())
    deterministic(session.torch_device())
    run = Run.open(session, *load_recipe(home / "recipe.yaml"))
    with owned(home):
        return train_teachers(run)[1].equal_time()


def load_models(run: Run, folders: Folders) -> list[Contestant]:
    """Load every finished model with its weights, in the order of the report."""
    recipe, by_name = run.recipe, {teacher.name: teacher for teacher in run.teachers}
    contestants = []
    of_teachers: dict[ModelName, str] = {}  # they come first
    for name, folder in folders.items():
        if not name.finished:
            continue
        teacher = by_name.get(name)
        detector = teacher.build(recipe.seed) if teacher else run.build_student(recipe.seed)
        if teacher:
            of_teachers[name] = detector.spec.licence
        licences = run.licences_behind(name, of_teachers)
        first = in_table(name, recipe)
        asked = first and name.role == "student"
        precisions = recipe.export.precisions if asked else ("fp32",)
        in_torch = first and name.role != "baseline_equal_time"
        contestants.append(
            load_contestant(
                name, folder, detector, precisions, in_torch=in_torch, licences=licences
            )
        )
    return contestants


def in_table(name: ModelName, recipe: Recipe) -> bool:
    """Whether the report's table has rows of a model; other seeds are used for the gain only."""
    return name.seed in {None, recipe.seed}
