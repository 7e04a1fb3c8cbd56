"""Carry one recipe from data to report; reads top to bottom, in the order the data moves."""

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.coco_images import coco_ground_truth
from compress.console import Console
from compress.data import Data
from compress.detector import Detector
from compress.distill import Distiller
from compress.fit import evaluate_torch, fit, torch_manifest
from compress.health import Health, data_health
from compress.loading import steps_per_epoch
from compress.optim import TrainConfig
from compress.pairing import check_pair
from compress.pretrained import load_backbone_weights
from compress.recipe import Recipe
from compress.recipe_file import place
from compress.rundir import once, open_run, owned
from compress.session import Session, deterministic
from compress.ship import (
    Contestant,
    evaluate_rows,
    export_all,
    load_contestant,
    report_rows,
    time_rows,
)
from compress.summary import summarize
from compress.weights import inherit, load_weights
from export.atomic import write_json
from export.errors import DataError, RecipeError

Size = tuple[int, int]


def run(recipe: Recipe, source: "Source", runs: Path, device: str, console: Console) -> Path:
    """Train teacher, baselines and student, export, measure, report; return the report's folder.

    Finished stages are kept, a cut one goes on. Processes other than the first take part in
    training alone and return early.
    """
    session = Session(runs / recipe.name, device, console)
    torch_device = session.torch_device()
    deterministic(torch_device)
    data = recipe.data.open()
    health = data_health(data)  # reads every file once: hashes tell leaks between splits
    say_data(console, data, health)
    teacher_data = data if recipe.teacher.data is None else recipe.teacher.data.open()
    same_classes(data, teacher_data)
    check_models(recipe, data, source)
    check_training(session, recipe, data, teacher_data, source)
    if session.rank == 0:
        open_run(runs, recipe.name, recipe.resolved(), source.whole)
    if session.world > 1:
        session.fabric("32-true").barrier()
    if session.rank != 0:
        train_models(session, recipe, data, teacher_data)
        return session.home / "report"
    with owned(session.home):
        write_json(health.to_dict(), session.home / "data.json")
        rooms = train_models(session, recipe, data, teacher_data)
        contestants = load_models(recipe, data, rooms)
        rows = export_all(session, recipe, data, contestants)
        accuracy = evaluate_rows(session, data, rows)
        first = [row for row in rows if row.name in first_seed(recipe)]
        latency = time_rows(session, recipe, data, first)

        def report(out: Path) -> None:
            table = report_rows(session, first, accuracy, latency, out)
            summarize(session, recipe, source.whole, data, rooms, table, accuracy, latency, out)

        return once(session.home / "report", report)


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


def same_classes(data: Data, teacher_data: Data) -> None:
    """Refuse a teacher of other classes.

    Raises:
        RecipeError: naming the classes.
    """
    if data.classes != teacher_data.classes:
        raise RecipeError(
            f"teacher.data has the classes {list(teacher_data.classes)}, data has "
            f"{list(data.classes)}; teacher and student need the same classes in the same order"
        )
    if (data.input_height, data.input_width) != (
        teacher_data.input_height,
        teacher_data.input_width,
    ):
        raise RecipeError(
            f"teacher.data.image_size is {teacher_data.input_height} x "
            f"{teacher_data.input_width}, data.image_size {data.input_height} x "
            f"{data.input_width}; both see the same batches, so they must be equal"
        )


def check_models(recipe: Recipe, data: Data, source: Source) -> tuple[Detector, Detector]:
    """Build both models without weights and match them; return student and teacher.

    Raises:
        RecipeError: every loss that cannot work on this pair, with its line.
    """
    with torch.random.fork_rng(devices=[]):
        student = build_student(recipe, data, recipe.seed)
        teacher = build_teacher(recipe, data)
    problems = check_pair(student.spec, teacher.spec, recipe.distill)
    if problems:
        raise RecipeError(
            "\n".join(f"{source.at('distill', index)}: {text}" for index, text in problems)
        )
    return student, teacher


def check_training(
    session: Session, recipe: Recipe, data: Data, teacher_data: Data, source: Source
) -> None:
    """Find now what would otherwise stop the run after an hour.

    Raises:
        RecipeError: arithmetic that the device lacks, a batch that cannot be shared by the
            processes, a weights file that is not there.
        DataError: a batch larger than its set, labelled or not.
    """
    runs: list[tuple[TrainConfig, Data, tuple[str, ...]]] = [(recipe.train, data, ("train",))]
    if recipe.teacher.train is not None:
        runs.append((recipe.teacher.train, teacher_data, ("teacher", "train")))
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
        wanted = recipe.train.unlabeled_batch
        wanted = recipe.train.batch if wanted is None else wanted
        if len(data.unlabeled) < wanted:
            raise DataError(
                f"{source.at('data', 'unlabeled')}: has {len(data.unlabeled)} pictures, and a step "
                f"takes {wanted}; set train.unlabeled_batch to no more than there are"
            )
    for detector, where in (
        (recipe.student, ("student",)),
        (recipe.teacher.detector, ("teacher", "detector")),
    ):
        named = {"weights": detector.weights, "backbone_weights": detector.backbone_weights}
        for key, value in named.items():
            fetched = value in {"torchvision", "timm"}
            if value is not None and not fetched and not Path(value).is_file():
                raise RecipeError(
                    f"{source.at(*where, key)}: there is no file {value}; put the weights there, "
                    "or name another file"
                )


def build_student(recipe: Recipe, data: Data, seed: int) -> Detector:
    """The student before any training; equal seeds give equal weights."""
    torch.manual_seed(seed)
    return recipe.student.build(len(data.classes), (data.input_height, data.input_width))


def build_teacher(recipe: Recipe, data: Data) -> Detector:
    """The teacher before any training."""
    torch.manual_seed(recipe.seed)
    return recipe.teacher.detector.build(len(data.classes), (data.input_height, data.input_width))


def train_models(
    session: Session, recipe: Recipe, data: Data, teacher_data: Data
) -> dict[str, Path]:
    """Train what the recipe asks for, teacher first; return role or `seedN-role` -> room."""
    console, export = session.console, recipe.export
    rooms = {"teacher": teacher_room(session, recipe, teacher_data)}
    teacher = build_teacher(recipe, data)
    load_weights(teacher, rooms["teacher"] / "model.safetensors", strict=True, what="teacher")
    teacher.to(session.torch_device())
    teacher_ap = measure_teacher(session, recipe, data, teacher)
    for seed in range(recipe.seed, recipe.seed + recipe.seeds):

        def student(seed: int = seed) -> Detector:
            detector = build_student(recipe, data, seed)
            load_starting_weights(console, recipe.student, detector)
            if recipe.inherit != "none":
                report = inherit(detector, teacher)
                console.say(f"inherited from the teacher: {report.summary()}")
            return detector

        def plain(seed: int = seed) -> Distiller:
            return Distiller(student(seed))

        def distilled(seed: int = seed) -> Distiller:
            detector = student(seed)
            return Distiller(detector, teacher, recipe.distill)

        prefix = f"seed{seed}"
        if recipe.baseline.enabled:
            rooms[f"{prefix}-baseline"] = fit(
                session, f"{prefix}-baseline", plain, data, recipe.train, export, seed=seed
            )
            warn_of_a_weak_teacher(console, teacher_ap, rooms[f"{prefix}-baseline"])
        rooms[f"{prefix}-student"] = fit(
            session, f"{prefix}-student", distilled, data, recipe.train, export, seed=seed
        )
        if recipe.baseline.enabled and recipe.baseline.equal_time and recipe.distill:
            steps = equal_time_steps(rooms[f"{prefix}-baseline"], rooms[f"{prefix}-student"])
            name = f"{prefix}-baseline_equal_time"
            rooms[name] = fit(
                session, name, plain, data, recipe.train, export, seed=seed, steps=steps
            )
    return rooms


def teacher_room(session: Session, recipe: Recipe, data: Data) -> Path:
    """The room of the teacher's weights: trained here, or copied from the recipe's file."""

    def fresh() -> Distiller:
        detector = build_teacher(recipe, data)
        load_starting_weights(session.console, recipe.teacher.detector, detector)
        return Distiller(detector)

    if recipe.teacher.train is not None:
        return fit(
            session, "teacher", fresh, data, recipe.teacher.train, recipe.export, seed=recipe.seed
        )
    room = session.home / "models" / "teacher"
    if session.rank == 0:
        detector = fresh().student
        once(room, lambda out: keep_loaded(detector, out))
    if session.world > 1:
        session.fabric("32-true").barrier()
    return room


def keep_loaded(detector: Detector, out: Path) -> None:
    """Write a loaded teacher's weights as a trained one's are."""
    from compress.weights import save_weights

    save_weights(detector.state_dict(), out / "model.safetensors")
    write_json({"name": "teacher", "loaded": True, "rows": [], "steps": 0}, out / "training.json")


def load_starting_weights(console: Console, config: Any, detector: Detector) -> None:
    """Load what the recipe names: the backbone's weights, then the whole detector's."""
    if config.backbone_weights is not None:
        report = load_backbone_weights(detector, config.backbone, config.backbone_weights)
        console.say(f"backbone weights from {report.source}: {report.summary()}")
    if config.weights is not None:
        report = load_weights(detector, config.weights, strict=True, what=f"{config.type} weights")
        console.say(f"weights from {report.source}: {report.summary()}")


def measure_teacher(
    session: Session, recipe: Recipe, data: Data, teacher: Detector
) -> float | None:
    """Say the teacher's AP on the student's validation split before it teaches anything."""
    manifest = torch_manifest(teacher, data, recipe.export, "teacher")
    metrics = evaluate_torch(session, teacher, manifest, data, coco_ground_truth(data.val))
    ap = metrics.values["AP"]
    session.console.say(
        f"teacher: AP {'n/a' if ap is None else f'{100 * ap:.1f}'} on {data.val.source}"
    )
    return ap


def warn_of_a_weak_teacher(console: Console, teacher_ap: float | None, baseline: Path) -> None:
    """A teacher that knows no more than the student has nothing to teach."""
    rows = json.loads((baseline / "training.json").read_text(encoding="utf-8"))["rows"]
    alone = rows[-1]["AP"] if rows else None
    if teacher_ap is not None and alone is not None and teacher_ap <= alone:
        console.warn(
            f"the teacher (AP {100 * teacher_ap:.1f}) is no better than the student alone "
            f"({100 * alone:.1f}); distilling from it can hardly help. Train the teacher longer, "
            "on more data, or take a larger one"
        )


def equal_time_steps(baseline: Path, student: Path) -> int:
    """How many plain steps take as long as the distilled student's training took."""
    plain = json.loads((baseline / "training.json").read_text(encoding="utf-8"))
    taught = json.loads((student / "training.json").read_text(encoding="utf-8"))
    return max(1, round(float(taught["seconds"]) / float(plain["step_ms"]) * 1000))


def load_models(recipe: Recipe, data: Data, rooms: dict[str, Path]) -> list[Contestant]:
    """Every finished model with its weights, in the order of the report."""
    contestants = []
    for name, room in rooms.items():
        role = name.partition("-")[2] or "teacher"
        detector = (
            build_teacher(recipe, data)
            if role == "teacher"
            else build_student(recipe, data, recipe.seed)
        )
        precisions = recipe.export.precisions if role == "student" else ("fp32",)
        first = name in first_seed(recipe)
        if not first:
            precisions = ("fp32",)
        in_torch = first and role in {"teacher", "student"}
        contestants.append(load_contestant(role, room, detector, precisions, in_torch=in_torch))
    return contestants


def first_seed(recipe: Recipe) -> set[str]:
    """The names whose rows stand in the report's table; other seeds enter the gain alone."""
    roles = ("baseline", "baseline_equal_time", "student")
    return {"teacher", *(f"seed{recipe.seed}-{role}" for role in roles)}
