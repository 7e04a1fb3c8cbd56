"""`--check`: what a run would do, how long and how much memory it may take; changes nothing."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.console import Console
from compress.detector import Detector
from compress.fit import count_parameters
from compress.health import data_health
from compress.loading import steps_per_epoch
from compress.pipeline import Source, check_models, check_training, same_classes
from compress.recipe import Recipe
from compress.rundir import differences
from compress.session import Session, torch_device

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
    data = recipe.data.open()
    teacher_data = data if recipe.teacher.data is None else recipe.teacher.data.open()
    same_classes(data, teacher_data)
    student, teacher = check_models(recipe, data, source)
    check_training(Session(runs, device, Console()), recipe, data, teacher_data, source)
    size = (data.input_height, data.input_width)
    # memory first: its pass also warms the model up, so that the timed ones are ordinary
    memory = {id(m): _memory_bytes(m, where, size) for m in (student, teacher)}
    forward = {id(m): _forward_seconds(m, where, size) for m in (student, teacher)}
    steps = recipe.train.total_steps(steps_per_epoch(data, recipe.train.batch))
    batch = recipe.train.batch * recipe.train.accumulate
    taught = TRAINING * forward[id(student)] + (forward[id(teacher)] if recipe.distill else 0.0)
    stages = []
    if recipe.teacher.train is not None:
        config = recipe.teacher.train
        count = config.total_steps(steps_per_epoch(teacher_data, config.batch))
        seconds = TRAINING * forward[id(teacher)] * config.batch * config.accumulate * count
        stages.append(_stage("teacher", count, teacher, seconds, memory[id(teacher)], config.batch))
    for seed in range(recipe.seed, recipe.seed + recipe.seeds):
        plain = TRAINING * forward[id(student)] * batch * steps
        distilled = taught * batch * steps
        bytes_ = memory[id(student)]
        if recipe.baseline.enabled:
            stages.append(
                _stage(f"seed{seed}-baseline", steps, student, plain, bytes_, recipe.train.batch)
            )
        both = bytes_ + (memory[id(teacher)] if recipe.distill else 0)
        stages.append(
            _stage(f"seed{seed}-student", steps, student, distilled, both, recipe.train.batch)
        )
        if recipe.baseline.enabled and recipe.baseline.equal_time and recipe.distill:
            longer = round(steps * distilled / plain)
            stages.append(
                _stage(
                    f"seed{seed}-baseline_equal_time",
                    longer,
                    student,
                    distilled,
                    bytes_,
                    recipe.train.batch,
                )
            )
    losses = ", ".join(loss.type for loss in recipe.distill) or "none"
    models = (
        f"teacher {_describe(teacher)}",
        f"student {_describe(student)}",
        f"distillation: {losses}",
    )
    return Plan(
        recipe.name,
        (f"data: {data.format}", *(f"  {line}" for line in data_health(data).lines())),
        models,
        tuple(stages),
        tuple(_notes(recipe, runs)),
    )


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
    changed = [key for key, _, _ in differences(before, recipe.resolved())]
    if changed:
        keys = ", ".join(changed[:4])
        return [f"{lock.parent} was made with other settings ({keys}): choose another name"]
    return [f"would go on in {lock.parent}"]
