"""Train the students of a run, baseline and distilled, from the same initial weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from compress.detector import Detector
from compress.distillation.distiller import Distiller
from compress.losses.parts.classifier import Classifier
from compress.parts.pretrained import load_starting_weights
from compress.parts.weights import inherit, load_weights
from compress.stages.fit import fit
from compress.stages.model_name import ModelName, Role
from compress.stages.opened import Run, Teacher
from compress.stages.rundir import read_record
from compress.stages.teachers import warn_of_a_weak_teacher

Rooms = dict[ModelName, Path]  # finished folders in models/, stages included
Taught = Callable[[Detector, int], Distiller]


class StudentTraining:
    """Trains the students of a run with its finished teachers.

    Each teacher has one stage with the full `train` schedule. The first stage starts from the
    recipe's weights and may inherit from the teacher; each later one continues the stage before.
    The baseline has as many stages without a teacher, so that both restart the schedule equally
    often. Without teachers there is one student with one stage.
    """

    def __init__(
        self,
        run: Run,
        teachers: Sequence[tuple[Teacher, Detector]],
        classifier: Classifier | None,
    ) -> None:
        self.run, self.teachers, self.classifier = run, teachers, classifier

    def train(self, seed: int, teacher_aps: Mapping[ModelName, float | None]) -> Rooms:
        """Train all students of one seed; return their folders, stages included."""
        recipe, rooms = self.run.recipe, Rooms()
        plain = ModelName(seed, "baseline")
        if recipe.has_baseline:
            rooms |= self._stages(seed, "baseline", lambda student, _: Distiller(student))
            for name, ap in teacher_aps.items():
                warn_of_a_weak_teacher(self.run.session.console, name, ap, rooms[plain])
        taught = self._stages(seed, "student", self._distilled)
        rooms |= taught
        if recipe.has_equal_time:
            steps = equal_time_steps(rooms[plain], list(taught.values()))
            name = ModelName(seed, "baseline_equal_time")
            rooms[name] = self._fit(name, seed, lambda: Distiller(self._first(seed)), steps)
        return rooms

    def _stages(self, seed: int, role: Role, objective: Taught) -> Rooms:
        rooms = Rooms()
        before: Path | None = None
        for stage, name in enumerate(self.run.stages_of(seed, role)):

            def build(stage: int = stage, before: Path | None = before) -> Distiller:
                student = self._first(seed) if before is None else self._next(seed, before)
                return objective(student, stage)

            before = rooms[name] = self._fit(name, seed, build)
        return rooms

    def _fit(
        self, name: ModelName, seed: int, build: Callable[[], Distiller], steps: int | None = None
    ) -> Path:
        run = self.run
        return fit(run, name, build, run.data, run.recipe.train, seed=seed, steps=steps)

    def _first(self, seed: int) -> Detector:
        recipe, console = self.run.recipe, self.run.session.console
        detector = self.run.build_student(seed)
        load_starting_weights(console, recipe.student, detector)
        if recipe.inherit != "none":
            teacher, weights = self.teachers[0]
            by_class = teacher.classes != self.run.data.classes
            skip = self._per_class(seed) if by_class else frozenset()
            report = inherit(detector, weights, skip)
            console.say(f"inherited from the {teacher.name}: {report.summary()}")
        return detector

    def _per_class(self, seed: int) -> frozenset[str]:
        """Return the names of tensors with a row per class, found by building one class more."""
        data = self.run.data
        size = (data.input_height, data.input_width)
        one = self.run.build_student(seed).state_dict()
        more = self.run.recipe.student.build(len(data.classes) + 1, size).state_dict()
        return frozenset(name for name in one if one[name].shape != more[name].shape)

    def _next(self, seed: int, before: Path) -> Detector:
        detector = self.run.build_student(seed)
        load_weights(detector, before / "model.safetensors", strict=True, what=before.name)
        return detector

    def _distilled(self, student: Detector, stage: int) -> Distiller:
        if not self.teachers:
            return Distiller(student)
        for number, (_, detector) in enumerate(self.teachers):
            detector.to(self.run.session.torch_device() if number == stage else "cpu")
        teacher, weights = self.teachers[stage]
        return Distiller(
            student,
            weights,
            self.run.recipe.distill,
            precision=teacher.config.precision,
            classifier=self.classifier,
        )


def equal_time_steps(baseline: Path, stages: Sequence[Path]) -> int:
    """Return the number of baseline steps that take as long as all stages of the student."""
    seconds = sum(read_record(stage).seconds or 0.0 for stage in stages)
    step_ms = read_record(baseline).step_ms
    assert step_ms is not None  # the baseline was trained here
    return max(1, round(seconds / step_ms * 1000))
