"""The teachers of a run: opened, trained or loaded, and measured before they teach anything."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.data.image_set import coco_ground_truth
from compress.console import Console
from compress.data.config import Data
from compress.detector import Detector
from compress.distillation.distiller import Distiller
from compress.parts.pretrained import load_starting_weights
from compress.parts.weights import WeightsReport, load_weights
from compress.recipe import Recipe, TeacherConfig
from compress.stages.fit import evaluate_torch, fit, torch_manifest
from compress.stages.model_file import describe_model, save_model
from compress.stages.rundir import once, teacher_name
from compress.stages.session import Session
from export.atomic import write_json
from export.errors import RecipeError


@dataclass(frozen=True)
class Teacher:
    """One entry of the recipe's `teacher`.

    Attributes:
        name: of its room: teacher, teacher2, ...
        keys: where it stands in the recipe.
        config: its settings.
        data: what it is trained on; the recipe's own data if it is loaded.
        classes: that it knows, in order.
    """

    name: str
    keys: tuple[str | int, ...]
    config: TeacherConfig
    data: Data
    classes: tuple[str, ...]

    def build(self, seed: int) -> Detector:
        """The teacher before any training."""
        torch.manual_seed(seed)
        size = (self.data.input_height, self.data.input_width)
        detector = self.config.detector.build(len(self.classes), size)
        detector.spec = replace(detector.spec, classes=self.classes)
        return detector


def open_teachers(recipe: Recipe, data: Data) -> tuple[Teacher, ...]:
    """Open every teacher's data.

    Raises:
        DataError: data of a teacher that cannot be read.
        RecipeError: pictures of another size than the student's.
    """
    teachers = []
    for index, config in enumerate(recipe.teachers):
        keys = recipe.teacher_keys(index)
        own = data if config.data is None else config.data.open()
        if (own.input_height, own.input_width) != (data.input_height, data.input_width):
            raise RecipeError(
                f"{dotted(keys)}.data.image_size is {own.input_height} x {own.input_width}, "
                f"data.image_size {data.input_height} x {data.input_width}; both see the same "
                "batches, so they must be equal"
            )
        classes = config.classes or own.classes
        teachers.append(Teacher(teacher_name(index), keys, config, own, classes))
    return tuple(teachers)


def dotted(keys: Sequence[str | int]) -> str:
    """`teacher[1].train` of ("teacher", 1, "train")."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


def teacher_room(session: Session, recipe: Recipe, teacher: Teacher) -> Path:
    """The room of the teacher's weights: trained here, or copied from the recipe's file."""
    config, reports = teacher.config, list[WeightsReport]()

    def fresh() -> Distiller:
        detector = teacher.build(recipe.seed)
        loaded = load_starting_weights(
            session.console, config.detector, detector, strict=config.strict
        )
        reports.extend(loaded)
        return Distiller(detector)

    if config.train is not None:
        return fit(
            session,
            teacher.name,
            fresh,
            teacher.data,
            config.train,
            recipe,
            config.detector,
            seed=recipe.seed,
        )

    def keep(out: Path) -> None:
        """Write a loaded teacher's weights as a trained one's are."""
        detector: Detector = fresh().student
        manifest = torch_manifest(detector, teacher.data, recipe.export, teacher.name)
        metadata = describe_model(config.detector, manifest, recipe.resolved())
        save_model(detector.state_dict(), metadata, out / "model.safetensors")
        record = {"name": teacher.name, "loaded": True, "rows": [], "steps": 0}
        partial = [report.summary() for report in reports if not report.complete]
        write_json({**record, "loaded_in_part": partial}, out / "training.json")

    room = session.home / "models" / teacher.name
    if session.rank == 0:
        once(room, keep)
    if session.world > 1:
        session.fabric("32-true").barrier()
    return room


def load_teacher(recipe: Recipe, teacher: Teacher, room: Path) -> Detector:
    """The finished teacher."""
    detector = teacher.build(recipe.seed)
    load_weights(detector, room / "model.safetensors", strict=True, what=teacher.name)
    return detector


def measure_teacher(
    session: Session, recipe: Recipe, data: Data, teacher: Teacher, detector: Detector
) -> float | None:
    """Say the teacher's AP on the student's validation split before it teaches anything."""
    manifest = torch_manifest(detector, data, recipe.export, "teacher")
    metrics = evaluate_torch(session, detector, manifest, data, coco_ground_truth(data.val))
    ap = metrics.values["AP"]
    session.console.say(
        f"{teacher.name}: AP {'n/a' if ap is None else f'{100 * ap:.1f}'} on {data.val.source}"
    )
    unknown = [name for name in data.classes if name not in teacher.classes]
    if unknown:
        session.console.warn(
            f"{teacher.name} does not know {', '.join(unknown)}: its AP counts them as missed, and "
            "it can teach features alone"
        )
    return ap


def warn_of_a_weak_teacher(
    console: Console, name: str, teacher_ap: float | None, baseline: Path
) -> None:
    """A teacher that knows no more than the student has nothing to teach."""
    rows = json.loads((baseline / "training.json").read_text(encoding="utf-8"))["rows"]
    alone = rows[-1]["AP"] if rows else None
    if teacher_ap is not None and alone is not None and teacher_ap <= alone:
        console.warn(
            f"the {name} (AP {100 * teacher_ap:.1f}) is no better than the student alone "
            f"({100 * alone:.1f}); distilling from it can hardly help. Train the teacher longer, "
            "on more data, or take a larger one"
        )
