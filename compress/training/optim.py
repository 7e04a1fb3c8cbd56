"""The training settings, the optimiser and the learning rate schedule."""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from compress.detector import Detector
from compress.training.backbone_stages import check_number, stage_rates, stages_of
from compress.training.objective import SeparateTraining
from export.config import (
    Batch,
    ClashError,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
)
from export.errors import RecipeError

BACKBONE = "student.backbone."


class TrainConfig(Section):
    """One training run. Exactly one of `epochs` and `steps` sets its length."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    batch: Batch = 16  # over all processes
    # of a step that distils from pictures without labels too; None: as batch
    labeled_batch: Batch | None = None
    unlabeled_batch: Annotated[int, Field(ge=0, le=65_536)] | None = None
    accumulate: int = Field(default=1, ge=1, le=10_000)  # batches per optimiser step
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=3e-3, ge=1e-9, le=1000)
    backbone_lr: float = Field(default=1.0, ge=1e-6, le=1000)  # times lr, for pre-trained backbones
    # each stage of the backbone has this share of the rate of the next; neck and head the full rate
    layer_decay: float = Field(default=1.0, ge=1e-3, le=1)
    freeze_at: int = Field(
        default=0, ge=0, le=16
    )  # stages of the backbone not trained; 1: the stem
    norm_eval: bool = (
        False  # the backbone's BatchNorm keeps its statistics; scales and biases train
    )
    weight_decay: float = Field(default=0.05, ge=0, le=100)
    decay_norms: bool = False  # also on norms and biases
    momentum: float = Field(default=0.9, ge=0, lt=1)  # SGD
    schedule: Literal["one_cycle", "cosine", "step", "constant"] = "one_cycle"
    warmup: float = Field(default=0.15, ge=0, lt=1)  # share of all steps
    milestones: Annotated[tuple[Share, ...], Field(max_length=100)] = (
        0.67,
        0.89,
    )  # shares of all steps, for schedule: step
    gamma: float = Field(default=0.1, gt=0, le=1)  # for schedule: step
    final_lr: float = Field(default=0.01, ge=0, le=1)  # times lr, for one_cycle and cosine
    clip: PositiveFloat | None = 10.0  # L2 norm of all gradients
    clip_value: PositiveFloat | None = None  # each gradient's entries, before `clip`
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    ema: float | None = Field(default=None, gt=0, lt=1)
    channels_last: bool = True
    measure_every: NonNegativeInt = 100  # steps between comparisons of the distillation terms
    evaluations: int = Field(default=4, ge=1, le=10_000)  # evenly spaced, the last one at the end
    keep: Literal["last", "best"] = "last"  # which weights ship; `best` chooses on val
    patience: PositiveInt | None = None  # evaluations without a better AP before stopping
    time_budget_minutes: Annotated[float, Field(ge=0.001, le=525_600)] | None = None
    workers: int = Field(default=0, ge=0, le=256)
    # 0: after every step
    checkpoint_every_s: Annotated[float, Field(ge=0, le=31_536_000)] = 30.0

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ClashError("give exactly one of epochs and steps", "epochs", "steps")
        if list(self.milestones) != sorted(self.milestones) or any(
            not 0 < m < 1 for m in self.milestones
        ):
            raise ClashError("expected shares of the run, rising between 0 and 1", "milestones")
        if self.lr * self.weight_decay >= 1:
            raise ClashError(
                f"lr {self.lr:g} times weight_decay {self.weight_decay:g} is 1 or more, so that "
                "each step would erase the weights; lower one of them",
                *("lr", "weight_decay"),
            )
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the total number of optimiser steps."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, self.epochs * steps_per_epoch // self.accumulate)


def learning_rate_factor(config: TrainConfig, step: int, total: int) -> float:
    """Return the factor of `lr` at `step` (0-based) of `total`; pure, so resuming is exact.

    one_cycle: cosine from 1/20 up to 1, then cosine down to `final_lr` (Smith and Topin 2018, as
    torch's OneCycleLR shapes it); cosine and step: linear warm-up from 1/20, then their decay.
    """
    warm = config.warmup * total
    progress = min(1.0, max(0.0, (step + 1 - warm) / max(1.0, total - warm)))
    if step + 1 <= warm:
        rise = (step + 1) / warm
        if config.schedule == "one_cycle":
            return 0.05 + 0.95 * 0.5 * (1 - math.cos(math.pi * rise))
        return 0.05 + 0.95 * rise
    if config.schedule in {"one_cycle", "cosine"}:
        return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "step":
        return config.gamma ** sum((step + 1) / total > m for m in config.milestones)
    return 1.0


def build_optimizer(
    objective: nn.Module, config: TrainConfig, separate: Sequence[SeparateTraining] = ()
) -> torch.optim.Optimizer:
    """Return an optimiser over every trainable parameter that is not in `separate`.

    Each group stores its `scale` of the learning rate. Norms and biases (tensors of one dimension)
    are not decayed unless `decay_norms`.

    Raises:
        RecipeError: `layer_decay` is below 1 and the backbone has no stages.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    apart = {id(p) for one in separate for p in one.module.parameters()}
    rates: dict[str, float] = {}
    if config.layer_decay < 1:
        rates = stage_rates(objective.get_submodule("student.backbone"), config.layer_decay)
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad and id(parameter) not in apart:
            own = name.removeprefix(BACKBONE)
            scale = 1.0 if own == name else config.backbone_lr * rates.get(own, 1.0)
            decayed = config.decay_norms or parameter.ndim > 1
            groups.setdefault((scale, decayed), []).append(parameter)
    entries = [
        {"params": params, "scale": scale, "weight_decay": config.weight_decay * decayed}
        for (scale, decayed), params in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(entries, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(entries, lr=config.lr)


def build_separate(one: SeparateTraining) -> torch.optim.Optimizer:
    """Return the optimiser of a separately trained part."""
    parameters = list(one.module.parameters())
    groups = [{"params": parameters, "scale": 1.0}]
    return torch.optim.AdamW(groups, lr=one.lr, weight_decay=one.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group to `rate` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def check_held(detector: Detector, config: TrainConfig) -> Iterator[tuple[str, RecipeError]]:
    """Yield what a detector's backbone does not allow of the settings of its stages, by key."""
    if config.freeze_at or config.layer_decay < 1:
        try:
            check_number(config.freeze_at, stages_of(detector.backbone))
        except RecipeError as error:
            yield "freeze_at" if config.freeze_at else "layer_decay", error
    layers = detector.backbone.modules()
    if config.norm_eval and not any(isinstance(one, _BatchNorm) for one in layers):
        problem = "true, and the backbone has no BatchNorm with statistics; remove this key"
        yield "norm_eval", RecipeError(problem)
