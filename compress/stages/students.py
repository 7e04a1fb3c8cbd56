"""The students of a run: baseline and distilled, stage by stage, from the same beginning."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from compress.data.config import Data
from compress.detector import Detector
from compress.distillation.distiller import Distiller
from compress.losses.parts.classifier import Classifier
from compress.parts.pretrained import load_starting_weights
from compress.parts.weights import inherit, load_weights
from compress.recipe import Recipe
from compress.stages.fit import fit
from compress.stages.rundir import stage_names
from compress.stages.session import Session
from compress.stages.teachers import Teacher, warn_of_a_weak_teacher

Taught = Callable[[Detector, int], Distiller]


def build_student(recipe: Recipe, data: Data, seed: int) -> Detector:
    """The student before any training; equal seeds give equal weights."""
    torch.manual_seed(seed)
    size = (data.input_height, data.input_width)
    detector = recipe.student.build(len(data.classes), size)
    detector.spec = replace(detector.spec, classes=data.classes)
    return detector


class StudentTraining:
    """Trains the students of a run, once its teachers are finished.

    Each teacher has a stage of its own, a full `train` long; the first begins as the recipe says
    and may inherit, each later one begins from the stage before. The baseline goes through as many
    stages without a teacher: whatever a restart of the schedule is worth, both have it.
    """

    def __init__(
        self,
        session: Session,
        recipe: Recipe,
        data: Data,
        teachers: Sequence[tuple[Teacher, Detector]],
        classifier: Classifier | None,
    ) -> None:
        self.session, self.recipe, self.data = session, recipe, data
        self.teachers, self.classifier = teachers, classifier

    def run(self, seed: int, teacher_aps: Mapping[str, float | None]) -> dict[str, Path]:
        """Train what the recipe wants of one seed; return `seedN-role` -> room, stages included."""
        baseline, rooms = self.recipe.baseline, dict[str, Path]()
        if baseline.enabled:
            rooms |= self._stages(seed, "baseline", lambda student, _: Distiller(student))
            for name, ap in teacher_aps.items():
                warn_of_a_weak_teacher(
                    self.session.console, name, ap, rooms[f"seed{seed}-baseline"]
                )
        taught = self._stages(seed, "student", self._distilled)
        rooms |= taught
        if baseline.enabled and baseline.equal_time and self.recipe.distill:
            steps = equal_time_steps(rooms[f"seed{seed}-baseline"], list(taught.values()))
            name = f"seed{seed}-baseline_equal_time"
            rooms[name] = self._fit(name, seed, lambda: Distiller(self._first(seed)), steps)
        return rooms

    def _stages(self, seed: int, role: str, objective: Taught) -> dict[str, Path]:
        rooms = dict[str, Path]()
        before: Path | None = None
        for stage, name in enumerate(stage_names(seed, role, len(self.teachers))):

            def build(stage: int = stage, before: Path | None = before) -> Distiller:
                student = self._first(seed) if before is None else self._next(seed, before)
                return objective(student, stage)

            before = rooms[name] = self._fit(name, seed, build)
        return rooms

    def _fit(
        self, name: str, seed: int, build: Callable[[], Distiller], steps: int | None = None
    ) -> Path:
        recipe = self.recipe
        return fit(
            self.session,
            name,
            build,
            self.data,
            recipe.train,
            recipe,
            recipe.student,
            seed=seed,
            steps=steps,
        )

    def _first(self, seed: int) -> Detector:
        recipe, console = self.recipe, self.session.console
        detector = build_student(recipe, self.data, seed)
        load_starting_weights(console, recipe.student, detector)
        if recipe.inherit != "none":
            teacher, weights = self.teachers[0]
            by_class = teacher.classes != self.data.classes
            skip = self._per_class(seed) if by_class else frozenset()
            report = inherit(detector, weights, skip)
            console.say(f"inherited from the {teacher.name}: {report.summary()}")
        return detector

    def _per_class(self, seed: int) -> frozenset[str]:
        """Names of the tensors that have rows for classes: their shapes grow with one more."""
        classes, size = len(self.data.classes), (self.data.input_height, self.data.input_width)
        one = build_student(self.recipe, self.data, seed).state_dict()
        more = self.recipe.student.build(classes + 1, size).state_dict()
        return frozenset(name for name in one if one[name].shape != more[name].shape)

    def _next(self, seed: int, before: Path) -> Detector:
        detector = build_student(self.recipe, self.data, seed)
        load_weights(detector, before / "model.safetensors", strict=True, what=before.name)
        return detector

    def _distilled(self, student: Detector, stage: int) -> Distiller:
        for number, (_, detector) in enumerate(self.teachers):
            detector.to(self.session.torch_device() if number == stage else "cpu")
        teacher, weights = self.teachers[stage]
        return Distiller(
            student,
            weights,
            self.recipe.distill,
            precision=teacher.config.precision,
            classifier=self.classifier,
        )


def equal_time_steps(baseline: Path, stages: Sequence[Path]) -> int:
    """How many plain steps take as long as all stages of the distilled student's training."""
    plain = json.loads((baseline / "training.json").read_text(encoding="utf-8"))
    taught = [json.loads((s / "training.json").read_text(encoding="utf-8")) for s in stages]
    seconds = sum(float(record["seconds"]) for record in taught)
    return max(1, round(seconds / float(plain["step_ms"]) * 1000))
