"""Carry one recipe from data to report; reads top to bottom, in the order the data moves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.data.division import keep_division
from benchmarks.gates import GateError, broken_gates, load_report
from compress.console import Console
from compress.data.config import Data
from compress.data.health import Health, data_health
from compress.data.loading import steps_per_epoch
from compress.detector import Detector
from compress.distillation.pairing import check_pair
from compress.losses.parts.classifier import Classifier, ClassifierConfig
from compress.recipe import Recipe
from compress.recipe_file import place
from compress.stages.classifier import classifier_room, load_classifier, schedule_of
from compress.stages.rundir import is_finished_model, once, open_run, owned, role_of, teacher_name
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
from compress.stages.students import StudentTraining, build_student
from compress.stages.summary import summarize
from compress.stages.teachers import (
    Teacher,
    load_teacher,
    measure_teacher,
    open_teachers,
    teacher_room,
)
from compress.training.optim import TrainConfig
from export.atomic import write_json
from export.errors import DataError, RecipeError
from export.precision.model_optimizer import require_model_optimizer


def run(recipe: Recipe, source: "Source", runs: Path, device: str, console: Console) -> Path:
    """Train teachers, baselines and students, export, measure, report; return the report's folder.

    Finished stages are kept, a cut one goes on. Processes other than the first take part in
    training alone and return early.
    """
    session = Session(runs / recipe.name, device, console)
    torch_device = session.torch_device()
    deterministic(torch_device)
    data = recipe.data.open()
    health = data_health(data)  # reads every file once: hashes tell leaks between splits
    say_data(console, data, health)
    teachers = open_teachers(recipe, data)
    check_models(recipe, data, teachers, source)
    check_training(session, recipe, data, teachers, source)
    if session.rank == 0:
        open_run(runs, recipe.name, recipe.resolved(), source.whole, Recipe.resolved_anew)
    if session.world > 1:
        session.fabric("32-true").barrier()
    if session.rank != 0:
        train_models(session, recipe, data, teachers)
        return session.home / "report"
    with owned(session.home):
        if data.division is not None:
            keep_division(data.division, session.home / "split.json")
        write_json(health.to_dict(), session.home / "data.json")
        rooms = train_models(session, recipe, data, teachers)
        contestants = load_models(recipe, data, teachers, rooms)
        rows = export_all(session, recipe, data, contestants)
        accuracy = evaluate_rows(session, data, rows)
        first = [row for row in rows if row.name in first_seed(recipe)]
        latency = time_rows(session, recipe, data, first)
        archive = bundle_student(session, recipe, data, first)
        console.say(f"bundle for the device: {archive}")

        def report(out: Path) -> None:
            table = report_rows(session, first, accuracy, latency, out)
            summarize(session, recipe, source.whole, data, rooms, table, accuracy, latency, out)

        room = once(session.home / "report", report)
        hold_gates(recipe, room)
        return room


def hold_gates(recipe: Recipe, report: Path) -> None:
    """Compare the finished report with the recipe's reference.

    Raises:
        GateError: a limit is broken; the report is there all the same.
    """
    gates = recipe.gates
    if gates is None or gates.reference is None:
        return
    broken = broken_gates(load_report(gates.reference), load_report(report), gates)
    if broken:
        raise GateError("\n".join(["gates: these limits are broken", *broken]))


class Source:
    """The recipe's file, for messages that come after it was read."""

    def __init__(self, path: Path, text: str, overrides: list[str]) -> None:
        self.path, self.text, self.overrides = path, text, overrides

    @property
    def whole(self) -> str:
        """The text, with the overrides as a comment."""
        given = "".join(f"\n#   {override}" for override in self.overrides)
        return self.text + (f"\n# overrides on the command line:{given}\n" if given else "")

    def at(self, *keys: str | int) -> str:
        """`file:line: key`, or the override that set it."""
        return place(self.path, self.text, self.overrides, keys)


def say_data(console: Console, data: Data, health: Health) -> None:
    """Say what was found and what looks wrong."""
    console.say(f"data: {data.format}")
    for line in health.lines():
        console.say(f"  {line}")


def check_models(
    recipe: Recipe, data: Data, teachers: Sequence[Teacher], source: Source
) -> tuple[Detector, list[Detector]]:
    """Build all models without weights and match them; return the student and its teachers.

    Raises:
        RecipeError: every loss that cannot work on one of these pairs, with its line.
    """
    with torch.random.fork_rng(devices=[]):
        student = build_student(recipe, data, recipe.seed)
        built = [teacher.build(recipe.seed) for teacher in teachers]
    lines = []
    for teacher, detector in zip(teachers, built, strict=True):
        who = f"{teacher.name}: " if len(teachers) > 1 else ""
        lines += [
            f"{source.at('distill', index)}: {who}{text}"
            for index, text in check_pair(student.spec, detector.spec, recipe.distill)
        ]
    if lines:
        raise RecipeError("\n".join(lines))
    return student, built


def check_training(
    session: Session, recipe: Recipe, data: Data, teachers: Sequence[Teacher], source: Source
) -> None:
    """Find now what would otherwise stop the run after an hour.

    Raises:
        RecipeError: arithmetic that the device lacks, a batch that cannot be shared by the
            processes, a weights file that is not there.
        DataError: a batch larger than its set, labelled or not.
        MissingDependencyError: what makes FP8 graphs is not installed.
    """
    runs: list[tuple[TrainConfig, Data, tuple[str | int, ...]]] = [(recipe.train, data, ("train",))]
    runs += [
        (teacher.config.train, teacher.data, (*teacher.keys, "train"))
        for teacher in teachers
        if teacher.config.train is not None
    ]
    if recipe.gates is not None and recipe.gates.reference is not None:
        load_report(recipe.gates.reference)
    if "fp8" in recipe.export.precisions:
        require_model_optimizer()
    wanted = wanted_classifier(recipe, source)
    if wanted is not None:
        runs.append((schedule_of(wanted[0]), data, wanted[1]))
    for config, images, keys in runs:
        steps_per_epoch(images, config.batch)
        if config.amp == "fp16" and session.torch_device().type == "cpu":
            raise RecipeError(
                f"{source.at(*keys, 'amp')}: fp16 needs a GPU; say auto, bf16 or off on a CPU"
            )
        if config.batch % session.world:
            raise RecipeError(
                f"{source.at(*keys, 'batch')}: {config.batch} pictures cannot be shared evenly by "
                f"{session.world} processes; choose a multiple of {session.world}"
            )
    if data.unlabeled is not None and recipe.distill:
        asked = recipe.train.unlabeled_batch
        asked = recipe.train.batch if asked is None else asked
        if len(data.unlabeled) < asked:
            raise DataError(
                f"{source.at('data', 'unlabeled')}: has {len(data.unlabeled)} pictures, and a step "
                f"takes {asked}; set train.unlabeled_batch to no more than there are"
            )
    detectors: list[tuple[Any, tuple[str | int, ...]]] = [(recipe.student, ("student",))]
    detectors += [(t.config.detector, (*t.keys, "detector")) for t in teachers]
    named = [(d.weights, (*keys, "weights")) for d, keys in detectors]
    named += [(d.backbone_weights, (*keys, "backbone_weights")) for d, keys in detectors]
    if wanted is not None:
        named.append((wanted[0].backbone_weights, (*wanted[1], "backbone_weights")))
    for value, keys in named:
        fetched = value in {"torchvision", "timm"}
        if value is not None and not fetched and not Path(value).is_file():
            raise RecipeError(
                f"{source.at(*keys)}: there is no file {value}; put the weights there, or name "
                "another file"
            )


def wanted_classifier(
    recipe: Recipe, source: Source | None = None
) -> tuple[ClassifierConfig, tuple[str | int, ...]] | None:
    """The classifier that a loss learns from, and where its settings stand.

    Raises:
        RecipeError: two losses want different ones.
    """
    found: tuple[ClassifierConfig, tuple[str | int, ...]] | None = None
    for index, loss in enumerate(recipe.distill):
        config = loss.wanted_classifier()
        keys = ("distill", index, "classifier")
        if config is None:
            continue
        if found is not None and found[0] != config and source is not None:
            raise RecipeError(
                f"{source.at(*keys)}: differs from the classifier of another loss; a run trains "
                "one, so give both the same settings"
            )
        found = found or (config, keys)
    return found


def train_models(
    session: Session, recipe: Recipe, data: Data, teachers: Sequence[Teacher]
) -> dict[str, Path]:
    """Train what the recipe asks for, teachers first; return the rooms by their names."""
    rooms = {t.name: teacher_room(session, recipe, t) for t in teachers}
    ready = [(t, load_teacher(recipe, t, rooms[t.name])) for t in teachers]
    classifier: Classifier | None = None
    wanted = wanted_classifier(recipe)
    if wanted is not None:
        room = classifier_room(session, wanted[0], data, recipe.seed)
        classifier = load_classifier(session, wanted[0], data, room)
    aps = {t.name: measure_teacher(session, recipe, data, t, detector) for t, detector in ready}
    students = StudentTraining(session, recipe, data, ready, classifier)
    for seed in range(recipe.seed, recipe.seed + recipe.seeds):
        rooms |= students.run(seed, aps)
    return rooms


def load_models(
    recipe: Recipe, data: Data, teachers: Sequence[Teacher], rooms: dict[str, Path]
) -> list[Contestant]:
    """Every finished model with its weights, in the order of the report."""
    contestants, by_name = [], {teacher.name: teacher for teacher in teachers}
    for name, room in rooms.items():
        if not is_finished_model(name):
            continue
        role = role_of(name)
        detector = (
            by_name[name].build(recipe.seed)
            if role == "teacher"
            else build_student(recipe, data, recipe.seed)
        )
        precisions = recipe.export.precisions if role == "student" else ("fp32",)
        first = name in first_seed(recipe)
        if not first:
            precisions = ("fp32",)
        in_torch = first and role in {"teacher", "baseline", "student"}
        contestants.append(load_contestant(role, room, detector, precisions, in_torch=in_torch))
    return contestants


def first_seed(recipe: Recipe) -> set[str]:
    """The names whose rows stand in the report's table; other seeds enter the gain alone."""
    roles = ("baseline", "baseline_equal_time", "student")
    teachers = {teacher_name(index) for index in range(len(recipe.teachers))}
    return teachers | {f"seed{recipe.seed}-{role}" for role in roles}
