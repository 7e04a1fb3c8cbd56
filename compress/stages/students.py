"""Train the students of a run, baseline and distilled, from the same initial weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.timing.step_ratio import StepRatio
from compress.console import Console
from compress.data.loading import steps_per_epoch
from compress.data.taught import Taught
from compress.detector import Detector
from compress.distillation.distiller import Distiller
from compress.distillation.teacher import LiveTeacher, Teaching
from compress.losses.parts.classifier import Classifier
from compress.parts.transfer import sized_by_classes
from compress.parts.weights import inherit, load_weights
from compress.stages.fit import (
    batches_of,
    choose_precision,
    fit,
)
from compress.stages.model_name import ModelName, Role
from compress.stages.opened import Run, Teacher
from compress.stages.rundir import (
    EQUAL_TIME,
    read_record,
    read_step_ratio,
    teaching_ms,
)
from compress.stages.teachers import warn_of_a_weak_teacher
from compress.tracking.tracker import Trackers
from compress.training.job import TrainJob
from compress.training.paired_steps import (
    CYCLE,
    MOST,
    Samples,
    parts_of,
    step_ratio,
    time_in_turns,
)
from compress.training.seals import write_sealed_json

Folders = dict[ModelName, Path]  # finished folders in models/, stages included
Objective = Callable[[Detector, int], Distiller]


class StudentTraining:
    """Trainer of the students of a run, given its finished teachers.

    Each teacher has one stage with the full `train` schedule. The first stage starts from the
    recipe's weights and may inherit from the teacher; each later one continues the stage before.
    The baseline has as many stages without a teacher, so that both restart the schedule equally
    often. Without teachers there is one student with one stage.

    Args:
        run: the run.
        teachers: the detectors that teach; empty where none does.
        classifier: classifier of object crops, where a loss needs one.
        beforehand: stored outputs or a backbone, used in place of the detectors; one per
            stage, or empty.
        taught: the boxes that each network found beforehand, where a loss compares them.
    """

    def __init__(
        self,
        run: Run,
        teachers: Sequence[tuple[Teacher, Detector]],
        classifier: Classifier | None,
        beforehand: Sequence[Teaching] = (),
        taught: Sequence[Taught] = (),
    ) -> None:
        self.run, self.teachers, self.classifier = run, teachers, classifier
        self.beforehand, self.taught = beforehand, taught

    def train(self, seed: int, teacher_aps: Mapping[ModelName, float | None]) -> Folders:
        """Train all students of one seed; return their folders, stages included."""
        recipe, folders = self.run.recipe, Folders()
        plain, longer = ModelName(seed, "baseline"), ModelName(seed, "baseline_equal_time")
        ratio: StepRatio | None = None
        if recipe.has_equal_time and not (self.run.home / "models" / str(longer)).exists():
            ratio = self.equal_time()
        if recipe.has_baseline:
            folders |= self._stages(seed, "baseline", lambda student, _: Distiller(student))
            for name, ap in teacher_aps.items():
                warn_of_a_weak_teacher(self.run.session.console, name, ap, folders[plain])
        taught = self._stages(seed, "student", self._distilled)
        folders |= taught
        if recipe.has_equal_time:
            taken = sum(read_record(folder).steps for folder in taught.values())
            once = teaching_ms(self.run.home)
            steps = None if ratio is None else ratio.plain_steps(taken, once)
            folders[longer] = self._fit(longer, seed, lambda: Distiller(self._first(seed)), steps)
        return folders

    def equal_time(self, most: int = MOST) -> StepRatio:
        """Return the cost of a distilled step in plain ones: as recorded, or measured now.

        It is measured once per run, before the students train, on the recipe's own batches, with
        temporary students of the first seed, with a limited number of rounds per part of the
        schedule, and is stored in `equal_time.json`.
        """
        session = self.run.session
        path = session.home / EQUAL_TIME
        found = read_step_ratio(session.home) if session.rank == 0 else None
        if session.world > 1:
            found = session.fabric("32-true").broadcast(found)
        if found is not None:
            return found
        session.console.print("equal time: timing distilled and plain steps alternately")
        quiet = replace(session, console=Console(quiet=True), trackers=Trackers())
        apart = StudentTraining(
            replace(self.run, session=quiet),
            self.teachers,
            self.classifier,
            self.beforehand,
            self.taught,
        )
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            stages = self.run.stages_of(self.run.recipe.seed, "student")
            timed = [apart._time_stage(stage, most) for stage in range(len(stages))]
        samples = [one for stage in timed for one in stage]
        measured = step_ratio(samples, session.torch_device())
        if session.world > 1:
            measured = session.fabric("32-true").broadcast(measured)
        if session.rank == 0:
            write_sealed_json(measured.model_dump(mode="json"), path)
        session.console.print(f"equal time: {measured.sentence()}")
        return measured

    def _time_stage(self, stage: int, most: int) -> list[Samples]:
        """Time the steps of one stage against plain ones, in every part of its schedule."""
        run, config, seed = self.run, self.run.recipe.train, self.run.recipe.seed
        session, data = run.session, run.data
        total = config.total_steps(steps_per_epoch(data, config.batch))
        plain = Distiller(self._first(seed))
        taught = self._distilled(self._first(seed), stage)
        size = (data.input_height, data.input_width)
        precision, _ = choose_precision(session, taught, config, size)

        def job(objective: Distiller) -> TrainJob:
            name = str(run.stages_of(seed, "student")[stage])
            cycle = CYCLE * config.accumulate
            return TrainJob(
                name=name,
                objective=objective,
                batches=batches_of(session, data, config, seed, total, objective, cycle=cycle),
                config=config,
                total=total,
                live=session.home / "training" / f"{name}-timed",  # never written
                evaluate=lambda _: {},
                fabric=session.fabric(precision),
                seed=seed,
                console=session.console,
            )

        parts = parts_of(total, lambda step: taught.phase(step, total))
        return time_in_turns(job(plain), job(taught), parts, most=most)

    def _stages(self, seed: int, role: Role, objective: Objective) -> Folders:
        folders = Folders()
        before: Path | None = None
        for stage, name in enumerate(self.run.stages_of(seed, role)):

            def build(stage: int = stage, before: Path | None = before) -> Distiller:
                student = self._first(seed) if before is None else self._next(seed, before)
                return objective(student, stage)

            before = folders[name] = self._fit(name, seed, build)
        return folders

    def _fit(
        self, name: ModelName, seed: int, build: Callable[[], Distiller], steps: int | None = None
    ) -> Path:
        run = self.run
        own = {teacher.name: detector.spec.licence for teacher, detector in self.teachers}
        licences = run.licences_behind(name, own)
        return fit(
            run, name, build, run.data, run.recipe.train, seed=seed, steps=steps, licences=licences
        )

    def _first(self, seed: int) -> Detector:
        run, recipe = self.run, self.run.recipe
        detector, name = run.build_student(seed), run.stages_of(seed, "student")[0]
        run.begin(detector, recipe.student, run.data, name, batch=recipe.train.batch)
        if recipe.inherit != "none":
            teacher, weights = self.teachers[0]
            by_class = teacher.classes != run.data.classes
            skip = sized_by_classes(detector, self._rebuilt) if by_class else frozenset()
            report = inherit(detector, weights, skip)
            run.print(f"inherited from the {teacher.name}: {report.summary()}")
        return detector

    def _rebuilt(self, classes: int) -> Detector:
        data = self.run.data
        return self.run.recipe.student.build(classes, (data.input_height, data.input_width))

    def _next(self, seed: int, before: Path) -> Detector:
        detector = self.run.build_student(seed)
        load_weights(detector, before / "model.safetensors", strict=True, what=before.name)
        return detector

    def _distilled(self, student: Detector, stage: int) -> Distiller:
        losses = self.run.recipe.distill
        if self.beforehand:
            return Distiller(student, self.beforehand[stage], losses, classifier=self.classifier)
        if not self.teachers:
            return Distiller(student)
        for number, (_, detector) in enumerate(self.teachers):
            detector.to(self.run.session.torch_device() if number == stage else "cpu")
        teacher, network = self.teachers[stage]
        taught = self.taught[stage] if self.taught else None
        size = (self.run.data.input_height, self.run.data.input_width)
        precision = teacher.config.precision
        live = LiveTeacher(network, student.spec, precision, taught, size=size)
        return Distiller(student, live, losses, classifier=self.classifier)
