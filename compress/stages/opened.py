"""An opened run: the recipe, its data and its teachers, the input of every stage."""

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.data.parts.class_names import composed
from compress.data.config import Data, DataConfig
from compress.data.loading import training_batches
from compress.detector import Detector
from compress.detectors import DetectorConfig
from compress.parts.batch_norm import folded_layers, state_statistics
from compress.parts.pretrained import load_starting_weights
from compress.parts.transfer import Transfer, transfer
from compress.parts.weights import WeightsReport
from compress.recipe import Recipe, TeacherConfig
from compress.recipe_source import Source
from compress.recipe_weights import described, stated_licences
from compress.stages.model_name import ModelName, Role, stages_of
from compress.stages.session import Session
from compress.training.optim import TrainConfig
from export.errors import DataError, RecipeError, counted
from export.reading.plain_yaml import Key

UNFOLD_PICTURES = 64
_OF_DATA = re.compile(r"data((?:\.\w+)*): ")  # of a mistake in a setting of the section


@dataclass(frozen=True)
class Teacher:
    """One entry of the recipe's `teacher`.

    Attributes:
        name: `teacher`, `teacher2`, ...
        keys: path of its settings in the recipe.
        config: settings.
        data: data it is trained on; the recipe's own data for a loaded teacher.
        classes: class names, in the order of its labels.
    """

    name: ModelName
    keys: Key
    config: TeacherConfig
    data: Data
    classes: tuple[str, ...]

    def build(self, seed: int) -> Detector:
        """Build the teacher with the random weights of `seed`."""
        torch.manual_seed(seed)
        size = (self.data.input_height, self.data.input_width)
        detector = self.config.detector.build(len(self.classes), size)
        detector.spec = replace(detector.spec, classes=self.classes)
        return detector


class Training(NamedTuple):
    """The settings of a training of a detector.

    Attributes:
        detector: its section.
        config: its training settings.
        data: what it is trained on.
        keys: path of the training settings in the recipe.
        detector_keys: path of its section.
        teacher: number of the teacher, from 0; None for the student.
    """

    detector: DetectorConfig
    config: TrainConfig
    data: Data
    keys: Key
    detector_keys: Key
    teacher: int | None


@dataclass(frozen=True)
class Run:
    """The run of one recipe.

    Attributes:
        session: run folder, device and console of this process.
        recipe: all settings.
        source: the recipe's file, for messages.
        data: the student's data.
        teachers: the teachers, in the order in which they teach.
    """

    session: Session
    recipe: Recipe
    source: Source
    data: Data
    teachers: tuple[Teacher, ...]

    @classmethod
    def open(cls, session: Session, recipe: Recipe, source: Source) -> "Run":
        """Open the data of student and teachers.

        Raises:
            DataError: data cannot be read.
            RecipeError: a teacher's pictures have another size than the student's, or the student's
                weights other classes than the data.
        """
        data = open_data(recipe.data, source, "data")
        _check_student_classes(recipe, source, data.classes)
        return cls(session, recipe, source, data, open_teachers(recipe, data, source))

    @property
    def home(self) -> Path:
        """The run's folder."""
        return self.session.home

    @property
    def seeds(self) -> Iterable[int]:
        """Seeds of the students' trainings."""
        return range(self.recipe.seed, self.recipe.seed + self.recipe.seeds)

    @property
    def trainings(self) -> list[Training]:
        """Settings of all trainings of detectors: the student's, then the teachers'."""
        recipe = self.recipe
        student = Training(recipe.student, recipe.train, self.data, ("train",), ("student",), None)
        return [student] + [
            Training(
                one.config.detector,
                one.config.train,
                one.data,
                (*one.keys, "train"),
                (*one.keys, "detector"),
                number,
            )
            for number, one in enumerate(self.teachers)
            if one.config.train is not None
        ]

    def at_loss(self, index: int, *beside: Key) -> str:
        """Return the place of an entry of `distill` that does not fit the settings beside it."""
        keys = ("distill", index)
        return self.source.at(*keys, beside=[keys, *beside])

    def settings_of(self, name: ModelName) -> DetectorConfig:
        """Return the detector section that a model is built from."""
        if name.role == "teacher":
            return self.recipe.teachers[(name.stage or 1) - 1].detector
        return self.recipe.student

    def stages_of(self, seed: int, role: Role) -> list[ModelName]:
        """Name the trainings of one student, one for each teacher; the last is the finished one."""
        return stages_of(seed, role, max(1, len(self.teachers)))

    def teachers_of(self, name: ModelName) -> tuple[ModelName, ...]:
        """Name the teachers whose outputs or weights a model learns from."""
        if name.role == "student" and self.recipe.distill:
            return tuple(teacher.name for teacher in self.teachers)
        if name.role != "teacher" and self.recipe.inherit != "none":
            return (self.teachers[0].name,)
        return ()

    def licences(self, models: Iterable[Detector]) -> list[str]:
        """Return the licences of other packages in the run, given its models."""
        begun = [self.recipe.student, *(teacher.config.detector for teacher in self.teachers)]
        stated = [one for settings in begun for one in stated_licences(settings.weights)]
        return [model.spec.licence for model in models] + stated

    def licences_behind(self, name: ModelName, of_teachers: Mapping[ModelName, str]) -> list[str]:
        """Return the licences that a model carries besides its own code's.

        They are those of its teachers, and those that weights files state from which it or its
        teachers began.
        """
        behind = self.teachers_of(name)
        stated = [stated_licences(self.settings_of(one).weights) for one in (name, *behind)]
        return [of_teachers[one] for one in behind] + [one for each in stated for one in each]

    def build_student(self, seed: int) -> Detector:
        """Build the student before any training; equal seeds give equal weights."""
        torch.manual_seed(seed)
        size = (self.data.input_height, self.data.input_width)
        detector = self.recipe.student.build(len(self.data.classes), size)
        detector.spec = replace(detector.spec, classes=self.data.classes)
        return detector

    def transfer(
        self, detector: Detector, settings: DetectorConfig, *, copy: bool = True
    ) -> Transfer | None:
        """Copy what fits from the file that `settings.transfer` names; None without one.

        Args:
            detector: changed in place, if `copy`.
            settings: what it was built from.
            copy: whether to copy; else only names and shapes are read.

        Raises:
            ToolkitError: the file cannot be read, or nothing in it fits.
        """
        path, size = settings.transfer, (self.data.input_height, self.data.input_width)
        if path is None:
            return None
        said = described(path)
        known = None if said is None else tuple(map(composed, said[1]))
        return transfer(detector, path, known, lambda n: settings.build(n, size), copy=copy)

    def begin(
        self,
        detector: Detector,
        settings: DetectorConfig,
        data: Data,
        name: ModelName,
        *,
        batch: int | None,
        strict: bool = True,
    ) -> list[WeightsReport]:
        """Give a detector the weights that its settings name, and print what they are.

        Args:
            detector: as built from `settings`, with random weights; changed in place.
            settings: its section in the recipe.
            data: the pictures that it is trained on.
            name: name of the model.
            batch: pictures per step of its training; None: it is not trained.
            strict: whether `settings.weights` must fill the whole detector.

        Returns:
            What was loaded from each file, without what was transferred.

        Raises:
            ToolkitError: a file cannot be read or does not fit.
        """
        console = self.session.console
        reports = load_starting_weights(console, settings, detector, strict=strict)
        copied = self.transfer(detector, settings)
        if copied is not None:
            write = console.print if copied.complete else console.warn
            write(f"{name}: transferred from {copied.source}: {copied.summary()}")
        if batch is not None:
            _unfold(self.session, detector, data, batch, name)
        return reports

    def print(self, line: str) -> None:
        """Print one line for the user."""
        self.session.console.print(line)


def open_data(config: DataConfig, source: Source, *keys: str | int) -> Data:
    """Open the pictures of the `data` section at `keys`; mistakes in its settings get their place.

    Raises:
        DataError: see the sections' `open`.
    """
    try:
        return config.open()
    except DataError as error:
        lines = [_with_place(str(line), source, keys) for line in error.args]
        raise DataError(*lines) from error


def _with_place(line: str, source: Source, keys: Key) -> str:
    """Return a mistake with the place of the setting that it begins with, if it begins with one."""
    found = _OF_DATA.match(line)
    if found is None:
        return line
    named = (*keys, *found[1].split(".")[1:])
    return f"{source.at(*named, beside=[keys])}: {line[found.end() :]}"


def open_teachers(recipe: Recipe, data: Data, source: Source) -> tuple[Teacher, ...]:
    """Open the data of every teacher.

    Raises:
        DataError: a teacher's data cannot be read.
        RecipeError: its pictures have another size than the student's.
    """
    teachers = []
    for index, config in enumerate(recipe.teachers):
        keys = recipe.teacher_keys(index)
        own = data if config.data is None else open_data(config.data, source, *keys, "data")
        if (own.input_height, own.input_width) != (data.input_height, data.input_width):
            where = source.at(*keys, "data", "image_size", beside=[("data", "image_size")])
            raise RecipeError(
                f"{where}: {own.input_height} x {own.input_width}, and data.image_size is "
                f"{data.input_height} x {data.input_width}; both see the same batches, so they "
                "must be equal"
            )
        stated = tuple(map(composed, config.classes or ()))
        classes = stated or _stated_classes(config) or own.classes
        teachers.append(Teacher(ModelName.of_teacher(index), keys, config, own, classes))
    return tuple(teachers)


class StepPictures(NamedTuple):
    """How many pictures a step takes, over all processes."""

    labeled: int
    unlabeled: int = 0


def pictures_in_step(data: Data, config: TrainConfig, *, distils: bool = True) -> StepPictures:
    """Return the pictures of a step of a training that distils, or of one that does not."""
    if data.unlabeled is None or not distils:
        return StepPictures(config.batch)
    labeled, unlabeled = config.labeled_batch, config.unlabeled_batch
    return StepPictures(
        config.batch if labeled is None else labeled,
        config.batch if unlabeled is None else unlabeled,
    )


def own_data(recipe: Recipe, teachers: Sequence[Teacher]) -> dict[str, Data]:
    """Return the data of teachers that see other data than the student, each once, by name."""
    seen: list[DataConfig | None] = [None, recipe.data]
    found: dict[str, Data] = {}
    for teacher in teachers:
        if teacher.config.data not in seen:
            seen.append(teacher.config.data)
            found[str(teacher.name)] = teacher.data
    return found


def _stated_classes(config: TeacherConfig) -> tuple[str, ...] | None:
    """Return the classes that a loaded teacher's weights file states."""
    if config.detector.weights is None or not config.strict:
        return None
    said = described(config.detector.weights)
    return None if said is None else tuple(map(composed, said[1]))


def _unfold(session: Session, detector: Detector, data: Data, batch: int, name: ModelName) -> None:
    """Give BatchNorm layers that loaded weights have folded away the statistics of training data.

    All processes pass the same pictures. Nothing changes in eval mode, and a detector without such
    layers is left alone; see `folded_layers`.
    """
    layers = folded_layers(detector)
    if not layers:
        return
    device, steps = session.torch_device(), math.ceil(UNFOLD_PICTURES / batch)
    detector.to(device)
    stream = training_batches(data, batch=batch, seed=0, start_step=0, steps=steps, device=device)
    with contextlib.closing(stream) as feed:
        passes = (partial(detector.candidates, one.to(device).images) for one in feed)
        state_statistics(detector, layers, passes)
    session.console.print(
        f"{name}: {counted(len(layers), 'BatchNorm layer')} of the weights normalised nothing, as "
        f"in an exported model; their statistics were taken from {steps * batch} training pictures"
    )


def _check_student_classes(recipe: Recipe, source: Source, classes: tuple[str, ...]) -> None:
    """Refuse a student whose weights file states other classes than the data's, or another order.

    Raises:
        RecipeError: the classes differ; the message lists both.
    """
    said = None if recipe.student.weights is None else described(recipe.student.weights)
    if said is not None and tuple(map(composed, said[1])) != classes:
        raise RecipeError(
            f"{source.at('student', 'weights', beside=[('data',)])}: found the classes "
            f"{_first(said[1])} in {recipe.student.weights}, expected those of the data, "
            f"{_first(classes)}; set data.classes to those of the file, or set transfer instead of "
            "weights, which copies all but the layers of classes"
        )


def _first(names: Sequence[str], count: int = 8) -> str:
    """List names, of many the first ones and how many there are."""
    rest = f", ... ({len(names)} in all)" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
