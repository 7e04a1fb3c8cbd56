"""`--check`: what a run would do, how much memory it may take and, if asked, how long."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.data.inspection import PictureCache
from benchmarks.timing.load import LoadWatch
from compress.checks import check_models, check_training, wanted_classifier
from compress.console import Console
from compress.data.health import data_health, data_lines
from compress.data.loading import steps_per_epoch
from compress.data.pictures import look_at_pictures
from compress.detector import Detector
from compress.memory import (
    COPIES,
    GIB,
    STEP,
    machine_bytes,
    output_bytes,
    planned_output_bytes,
)
from compress.parts.licence import notice
from compress.parts.weights import count_parameters
from compress.recipe import Recipe
from compress.recipe_source import Source
from compress.stages.model_name import ModelName
from compress.stages.opened import Run, own_data, pictures_in_step
from compress.stages.rundir import check_home, read_step_ratio, teaching_ms
from compress.stages.session import Session, torch_device
from compress.stages.teaching.outputs import Network, lesson_of, name_of
from compress.teaching.config import BackboneTeacher
from compress.teaching.maps.store import in_words
from compress.training.precision import planned_in_words
from export.errors import counted

# A training step costs about three forward passes: one forward, and a backward of twice its work.
TRAINING = 3.0
# Share of the processors; where other programs use more, the measured time is meaningless.
MOST_OF_OTHERS = 0.25
# On an idle machine a pass has a whole processor; a smaller share means that it had to wait.
LEAST_OF_OWN = 0.6


@dataclass(frozen=True)
class Stage:
    """One training of the plan.

    Attributes:
        name: name of the model that it trains.
        steps: optimiser steps; None where they depend on the time of other stages, which is not
            known yet.
        parameters: number of the model's parameters.
        memory_gib: estimate, in GiB, of the memory of weights, optimiser and activations. A step
            took 0.8 to 1.5 times as much (docs/limits.md).
        minutes: training time, estimated from a timed forward pass; None without one.
    """

    name: str
    steps: int | None
    parameters: int
    memory_gib: float
    minutes: float | None

    def line(self) -> str:
        """Return the stage as a line of text."""
        steps = "as many steps as cost the same as the student's"
        if self.steps is not None:
            steps = counted(self.steps, "step")
        minutes = "" if self.minutes is None else f", about {self.minutes:.1f} min"
        return (
            f"  {self.name}: {steps}, "
            f"{self.parameters / 1e6:.3f}M parameters, "
            f"about {self.memory_gib:.1f} GiB{minutes}"
        )


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        name: name of the recipe.
        data: lines of text that describe the data.
        models: lines of text that describe the models.
        stages: the trainings, in order.
        time: one sentence: the estimated time of all trainings, or why there is no estimate.
        notes: warnings and other sentences.
    """

    name: str
    data: tuple[str, ...]
    models: tuple[str, ...]
    stages: tuple[Stage, ...]
    time: str
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        return [
            f"recipe {self.name}: valid",
            *self.data,
            *self.models,
            *(stage.line() for stage in self.stages),
            self.time,
            *self.notes,
        ]

    def to_dict(self) -> dict[str, object]:
        """Return the plan as plain data for JSON."""
        return asdict(self)


def plan(
    recipe: Recipe, source: Source, runs: Path, device: str, *, estimate: bool = False
) -> Plan:
    """Read the picture headers, build and match the models; with `estimate`, time a pass of each.

    Raises:
        ToolkitError: a mistake that would stop the run before its first training step.
    """
    watch = LoadWatch.start()
    where = torch_device(device)
    begun = check_home(runs, recipe.name, recipe.resolved(), Recipe.resolved_anew)
    opened = Run.open(Session(runs / recipe.name, device, Console()), recipe, source)
    data = opened.data
    several = (data, *(teacher.data for teacher in opened.teachers))
    look_at_pictures(several, PictureCache(runs, keep=False), opened.session.console, decode=False)
    student, teachers = check_models(opened)
    check_training(opened)
    size = (data.input_height, data.input_width)
    others = own_data(recipe, opened.teachers)
    health = data_health(data, recipe.export.max_detections, others)
    models = (student, *teachers)
    memory = [_memory_bytes(model, where, size) for model in models]  # also warms small ones up
    passes = [_time_pass(_filled(model, where), where, size) for model in models if estimate]
    busy = _why_useless(watch, passes, where) if estimate else None
    known = estimate and busy is None
    costs = [
        Cost(passes[place].seconds if known else None, held) for place, held in enumerate(memory)
    ]
    stages = []
    backbone = recipe.backbone_teacher
    taught_by: Sequence[Network] = opened.teachers if backbone is None else (backbone,)
    for teacher, detector, cost in zip(taught_by, teachers, costs[1:], strict=True):
        if isinstance(teacher, BackboneTeacher):
            continue  # it is not trained
        config = teacher.config.train
        if config is not None:
            count = config.total_steps(steps_per_epoch(teacher.data, config.batch))
            pictures = config.batch * config.accumulate * count
            seconds = None if cost.seconds is None else TRAINING * cost.seconds * pictures
            stages.append(
                _stage(str(teacher.name), count, detector, seconds, cost.memory, config.batch)
            )
    for seed in opened.seeds:
        stages += _student_stages(opened, seed, student, costs)
    losses = ", ".join(loss.type for loss in recipe.distill) or "none"
    losses = (
        losses if recipe.teacher is not None else "none; without a teacher one detector is trained"
    )
    notes = []
    wanted = wanted_classifier(recipe)
    if wanted is not None:
        schedule = wanted[0].schedule()
        steps = schedule.total_steps(steps_per_epoch(data, schedule.batch))
        notes.append(f"classifier: {counted(steps, 'step')} on object crops before the students")
    if recipe.stores_outputs:
        notes += [
            _store_in_words(opened, teacher, detector, student)
            for teacher, detector in zip(taught_by, teachers, strict=True)
        ]
    notes += _precisions(opened)
    licence = notice(opened.licences(models))
    notes += [licence] if licence else []
    notes += memory_warnings(stages, machine_bytes(where))
    seen: list[str] = []
    for title, lines in data_lines(health, others).items():
        seen += [title, *(f"  {line}" for line in lines)]
    return Plan(
        recipe.name,
        tuple(seen),
        (
            *(f"{name_of(t)} {_describe(d)}" for t, d in zip(taught_by, teachers, strict=True)),
            f"student {_describe(student)}",
            f"distillation: {losses}",
        ),
        tuple(stages),
        _time_in_words(stages, busy),
        (*notes, f"would {'resume in' if begun else 'be written to'} {runs / recipe.name}"),
    )


def _store_in_words(run: Run, teacher: Network, detector: Detector, student: Detector) -> str:
    """Return the size of the store of a teacher's outputs, from a pass of one picture."""
    lesson = lesson_of(run, teacher, detector, student.spec)
    views = counted(lesson.views.rows, "view")
    if _is_meta(detector) or any(weights.is_meta for weights in student.parameters()):
        return f"teach: outputs of the {name_of(teacher)} on {views} would be stored"
    size = lesson.row_bytes()
    return (
        f"teach: outputs of the {name_of(teacher)} on {views} take "
        f"{in_words(size * lesson.views.rows)} on disk, {in_words(size)} each"
    )


def memory_warnings(stages: Sequence[Stage], most: float | None) -> list[str]:
    """Return a warning about the largest training if it may need more than `most` bytes."""
    largest = max(stages, key=lambda stage: stage.memory_gib)
    if most is None or largest.memory_gib * GIB <= most:
        return []
    return [
        f"WARNING: {largest.name} takes about {largest.memory_gib:.0f} GiB, and this machine "
        "has "
        f"{most / GIB:.0f}; lower train.batch and raise train.accumulate by the same factor"
    ]


def _time_in_words(stages: Sequence[Stage], busy: str | None) -> str:
    minutes = [stage.minutes for stage in stages if stage.minutes is not None]
    if busy is not None:
        return f"no estimate of the time: {busy}; run the check again on an idle machine"
    if len(minutes) < len(stages):
        return "training time: not estimated (--estimate times a forward pass of each model)"
    return (
        f"about {counted(round(sum(minutes)), 'minute')} of training (a rough estimate from one "
        "forward pass on "
        "this machine; evaluation, export and latency measurement take more time)"
    )


@dataclass(frozen=True)
class Cost:
    """Cost of one model per picture.

    Attributes:
        seconds: time of a forward pass; None if it was not timed or the timing is unreliable.
        memory: bytes of the activations that a training step keeps.
    """

    seconds: float | None
    memory: float


@dataclass(frozen=True)
class Pass:
    """Timing of one forward pass.

    Attributes:
        seconds: time per picture.
        own_share: processor seconds of this process per second; 1 or more on an idle machine.
    """

    seconds: float
    own_share: float


def _why_useless(watch: LoadWatch, passes: Sequence[Pass], device: torch.device) -> str | None:
    """Return why the timings are unreliable (load of other programs); None if they are reliable."""
    reasons = watch.reasons()
    if watch.others_share is None:  # known on Linux only; elsewhere the load average is used
        return "; ".join(reasons) or None
    if watch.others_share > MOST_OF_OTHERS:
        return f"other programs used {watch.others_share:.0%} of the processors"
    share = min(one.own_share for one in passes)
    if device.type == "cpu" and share < LEAST_OF_OWN:
        return f"a forward pass got {share:.0%} of a processor"
    return None


def _student_stages(run: Run, seed: int, student: Detector, costs: Sequence[Cost]) -> list[Stage]:
    """Estimate the trainings of one seed; `costs` are the student's, then its teachers'."""
    recipe, config = run.recipe, run.recipe.train
    steps = config.total_steps(steps_per_epoch(run.data, config.batch))
    passes = config.accumulate * steps
    pictures, in_step = config.batch * passes, config.batch
    if recipe.distill:
        in_step = sum(pictures_in_step(run.data, config))
    own, teachers = costs[0], costs[1:] or [Cost(0.0, 0.0)]
    plain = None if own.seconds is None else TRAINING * own.seconds * pictures
    stages: list[Stage] = []
    taught = None if plain is None else 0.0
    if recipe.has_baseline:
        stages += [
            _stage(str(name), steps, student, plain, own.memory, config.batch)
            for name in run.stages_of(seed, "baseline")
        ]
    for name, teacher in zip(run.stages_of(seed, "student"), teachers, strict=True):
        live = bool(recipe.distill) and not recipe.stores_outputs
        seconds = plain
        if own.seconds is not None and taught is not None and teacher.seconds is not None:
            of_picture = TRAINING * own.seconds + (teacher.seconds if live else 0.0)
            seconds = of_picture * in_step * passes
            taught += seconds
        memory = own.memory + (teacher.memory if live else 0.0)
        stages.append(_stage(str(name), steps, student, seconds, memory, in_step))
    if recipe.has_equal_time:
        longer = None if plain is None or taught is None else round(steps * taught / plain)
        measured = read_step_ratio(run.home)
        if measured is not None:  # what the run will take; else the estimate of its own measurement
            once = teaching_ms(run.home)
            longer = measured.plain_steps(steps * len(teachers), once)
            taught = None if plain is None else plain * longer / steps
        longest = ModelName(seed, "baseline_equal_time")
        stages.append(_stage(str(longest), longer, student, taught, own.memory, config.batch))
    return stages


def _stage(
    name: str,
    steps: int | None,
    model: nn.Module,
    seconds: float | None,
    per_image: float,
    batch: int,
) -> Stage:
    weights = COPIES * 4 * count_parameters(model)
    gib = (weights + STEP * per_image * batch) / GIB
    minutes = None if seconds is None else seconds / 60
    return Stage(name, steps, count_parameters(model), gib, minutes)


def _describe(model: Detector) -> str:
    spec = model.spec
    return (
        f"{spec.family}: strides {list(spec.strides)}, channels {list(spec.channels)}, "
        f"provides {', '.join(sorted(spec.provides))}{'; needs no NMS' if spec.nms_free else ''}"
    )


def _is_meta(model: Detector) -> bool:
    return any(weights.is_meta for weights in model.parameters())


def _filled(model: Detector, device: torch.device) -> Detector:
    """Return the model on `device`; one without weights, from the meta device, gets zeros."""
    if not _is_meta(model):
        return model.to(device)
    model.to_empty(device=device)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    return model.eval()


@torch.inference_mode()
def _time_pass(model: Detector, device: torch.device, size: tuple[int, int]) -> Pass:
    """Time a few forward passes; return the fastest."""
    count = 4 if size[0] * size[1] <= 320 * 320 else 1
    images = torch.rand(count, 3, *size, device=device)
    found: list[Pass] = []
    began = time.perf_counter()
    for _ in range(4):
        start, own = time.perf_counter(), time.process_time()
        _pass(model, images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        found.append(Pass(seconds / count, (time.process_time() - own) / seconds))
        if time.perf_counter() - began > 0.3:
            break  # large models: one pass is enough for an estimate
    return min(found, key=lambda one: one.seconds)


@torch.inference_mode()
def _memory_bytes(model: Detector, device: torch.device, size: tuple[int, int]) -> float:
    """Return the bytes of activations per picture of a training step: all layer outputs, fp32.

    A pass of a large model takes a minute; its outputs are counted without computing them.
    """
    if _is_meta(model):
        return planned_output_bytes(model.eval(), size)
    model.to(device).eval()
    return output_bytes(model, lambda: _pass(model, torch.rand(1, 3, *size, device=device)))


def _pass(model: Detector, images: Tensor) -> object:
    """Pass images through all of a model."""
    return model.candidates(images) if model.spec.finds_objects else model.maps(images)


def _precisions(run: Run) -> list[str]:
    """Return the precision of each training as lines of text; one line if all are equal."""
    where, record = run.session.torch_device(), run.home / "precision.json"
    asked = {"students": run.recipe.train.amp}
    for teacher in run.teachers:
        if teacher.config.train is not None:
            asked[str(teacher.name)] = teacher.config.train.amp
    found = {who: planned_in_words(amp, where, record) for who, amp in asked.items()}
    if len(set(found.values())) == 1:
        return [f"precision of training: {found['students']}"]
    return [f"precision of training, {who}: {said}" for who, said in found.items()]
