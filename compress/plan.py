"""`--check`: what a run would do, how long and how much memory it may take; changes nothing."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.console import Console
from compress.data.health import data_health
from compress.data.loading import steps_per_epoch
from compress.detector import Detector
from compress.pipeline import check_models, check_training, wanted_classifier
from compress.recipe import Recipe
from compress.recipe_file import Source
from compress.stages.classifier import schedule_of
from compress.stages.fit import count_parameters
from compress.stages.model_name import ModelName
from compress.stages.opened import Run
from compress.stages.rundir import differences
from compress.stages.session import Session, torch_device

# A training step costs about three forward passes: one forward, and a backward of twice its work.
TRAINING = 3.0
# Weights, gradients and AdamW's two moments, in copies of the weights.
COPIES = 4


@dataclass(frozen=True)
class Stage:
    """One training of the plan; the figures are estimates from one timed forward pass."""

    name: str
    steps: int
    parameters: int
    minutes: float
    memory_gib: float


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    name: str
    data: tuple[str, ...]
    models: tuple[str, ...]
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The plan in words."""
        total = sum(stage.minutes for stage in self.stages)
        return [
            f"recipe {self.name}: valid",
            *self.data,
            *self.models,
            *(
                f"  {s.name}: {s.steps} steps, {s.parameters / 1e6:.3f}M parameters, about "
                f"{s.minutes:.1f} min, {s.memory_gib:.1f} GiB"
                for s in self.stages
            ),
            f"about {total:.0f} minutes of training (a rough estimate from one forward pass on "
            "this machine; evaluation, export and measuring come on top)",
            *self.notes,
        ]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        return asdict(self)


def plan(recipe: Recipe, source: Source, runs: Path, device: str) -> Plan:
    """Read the data's heads, build and match the models, and estimate.

    Raises:
        ToolkitError: whatever would stop the run before its first step.
    """
    where = torch_device(device)
    opened = Run.open(Session(runs / recipe.name, device, Console()), recipe, source)
    data = opened.data
    student, teachers = check_models(opened)
    check_training(opened)
    size = (data.input_height, data.input_width)
    costs = []
    for model in (student, *teachers):
        # memory first: its pass also warms the model up, so that the timed ones are ordinary
        memory = _memory_bytes(model, where, size)
        costs.append(Cost(_forward_seconds(model, where, size), memory))
    stages = []
    for teacher, detector, cost in zip(opened.teachers, teachers, costs[1:], strict=True):
        config = teacher.config.train
        if config is not None:
            count = config.total_steps(steps_per_epoch(teacher.data, config.batch))
            seconds = TRAINING * cost.seconds * config.batch * config.accumulate * count
            stages.append(
                _stage(str(teacher.name), count, detector, seconds, cost.memory, config.batch)
            )
    for seed in opened.seeds:
        stages += _student_stages(opened, seed, student, costs)
    losses = ", ".join(loss.type for loss in recipe.distill) or "none"
    losses = losses if recipe.teachers else "none; without a teacher one detector is trained"
    notes = []
    wanted = wanted_classifier(recipe)
    if wanted is not None:
        schedule = schedule_of(wanted[0])
        steps = schedule.total_steps(steps_per_epoch(data, schedule.batch))
        notes.append(f"classifier: {steps} steps on object crops come before the students")
    return Plan(
        recipe.name,
        (f"data: {data.format}", *(f"  {line}" for line in data_health(data).lines())),
        (
            *(f"{t.name} {_describe(d)}" for t, d in zip(opened.teachers, teachers, strict=True)),
            f"student {_describe(student)}",
            f"distillation: {losses}",
        ),
        tuple(stages),
        (*notes, *_notes(recipe, runs)),
    )


@dataclass(frozen=True)
class Cost:
    """Of one model and picture: seconds of a forward pass, bytes that a training step keeps."""

    seconds: float
    memory: float


def _student_stages(run: Run, seed: int, student: Detector, costs: Sequence[Cost]) -> list[Stage]:
    """Estimate the trainings of one seed; `costs` are the student's, then its teachers'."""
    recipe, config = run.recipe, run.recipe.train
    steps = config.total_steps(steps_per_epoch(run.data, config.batch))
    pictures = config.batch * config.accumulate * steps
    own, teachers = costs[0], costs[1:] or [Cost(0.0, 0.0)]
    plain = TRAINING * own.seconds * pictures
    stages, taught = [], 0.0
    if recipe.has_baseline:
        stages += [
            _stage(str(name), steps, student, plain, own.memory, config.batch)
            for name in run.stages_of(seed, "baseline")
        ]
    for name, teacher in zip(run.stages_of(seed, "student"), teachers, strict=True):
        seconds = plain + (teacher.seconds * pictures if recipe.distill else 0.0)
        memory = own.memory + (teacher.memory if recipe.distill else 0.0)
        taught += seconds
        stages.append(_stage(str(name), steps, student, seconds, memory, config.batch))
    if recipe.has_equal_time:
        longer = round(steps * taught / plain)
        longest = ModelName(seed, "baseline_equal_time")
        stages.append(_stage(str(longest), longer, student, taught, own.memory, config.batch))
    return stages


def _stage(
    name: str, steps: int, model: nn.Module, seconds: float, per_image: float, batch: int
) -> Stage:
    weights = COPIES * 4 * count_parameters(model)
    gib = (weights + per_image * batch) / 2**30
    return Stage(name, steps, count_parameters(model), seconds / 60, gib)


def _describe(model: Detector) -> str:
    spec = model.spec
    return (
        f"{spec.family}: strides {list(spec.strides)}, channels {list(spec.channels)}, "
        f"provides {', '.join(sorted(spec.provides))}"
    )


@torch.inference_mode()
def _forward_seconds(model: Detector, device: torch.device, size: tuple[int, int]) -> float:
    """Seconds per picture of one forward pass."""
    count = 4 if size[0] * size[1] <= 320 * 320 else 1
    images = torch.rand(count, 3, *size, device=device)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        model.candidates(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append((time.perf_counter() - start) / count)
        if sum(seconds) * count > 0.3:
            break  # large models: one look is enough for an estimate
    return min(seconds)


@torch.inference_mode()
def _memory_bytes(model: Detector, device: torch.device, size: tuple[int, int]) -> float:
    """Bytes of activations that a training step keeps per picture: every layer's output, fp32."""
    kept = [0]

    def add(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            kept[0] += output.numel() * 4

    model.to(device).eval()
    leaves = [m for m in model.modules() if not list(m.children())]
    handles = [leaf.register_forward_hook(add) for leaf in leaves]
    try:
        model.candidates(torch.rand(1, 3, *size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return float(kept[0])


def _notes(recipe: Recipe, runs: Path) -> list[str]:
    lock = runs / recipe.name / "recipe.lock.json"
    if not lock.exists():
        return [f"would be written to {runs / recipe.name}"]
    before = json.loads(lock.read_text(encoding="utf-8"))
    before = Recipe.resolved_anew(before)
    changed = [key for key, _, _ in differences(before, recipe.resolved())]
    if changed:
        keys = ", ".join(changed[:4])
        return [f"{lock.parent} was made with other settings ({keys}): choose another name"]
    return [f"would go on in {lock.parent}"]
