"""Learning rates by hand, parameter groups, and the length of a run."""

import pytest
from pydantic import ValidationError
from torch import nn

from compress.training.optim import (
    TrainConfig,
    build_optimizer,
    learning_rate_factor,
    set_learning_rate,
)


def test_one_cycle_rises_to_one_and_falls_to_its_end() -> None:
    config = TrainConfig(steps=100, warmup=0.1, final_lr=0.01)
    factors = [learning_rate_factor(config, step, 100) for step in range(100)]
    assert factors[9] == pytest.approx(1.0)
    assert factors[4] == pytest.approx(0.05 + 0.95 / 2)  # half way up a cosine
    assert factors[54] == pytest.approx(0.01 + 0.99 / 2)  # half way down
    assert factors[99] == pytest.approx(0.01)


def test_step_schedule_drops_at_its_milestones() -> None:
    config = TrainConfig(steps=90, schedule="step", warmup=0.0, milestones=(2 / 3, 8 / 9))
    factors = [learning_rate_factor(config, step, 90) for step in range(90)]
    assert factors[0] == factors[59] == 1.0
    assert factors[60] == pytest.approx(0.1)
    assert factors[80] == pytest.approx(0.01)


def test_norms_and_biases_are_not_decayed_unless_asked() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    groups = build_optimizer(model, TrainConfig(steps=1, weight_decay=0.1)).param_groups
    assert {(len(g["params"]), g["weight_decay"]) for g in groups} == {(1, 0.1), (3, 0.0)}
    groups = build_optimizer(model, TrainConfig(steps=1, decay_norms=True)).param_groups
    assert [len(g["params"]) for g in groups] == [4]


def test_the_backbone_may_have_its_own_share_of_the_rate() -> None:
    model = nn.ModuleDict(
        {"student": nn.ModuleDict({"backbone": nn.Linear(1, 1), "head": nn.Linear(1, 1)})}
    )
    optimizer = build_optimizer(model, TrainConfig(steps=1, backbone_lr=0.1, decay_norms=True))
    set_learning_rate(optimizer, 1.0)
    assert sorted(g["lr"] for g in optimizer.param_groups) == [0.1, 1.0]


def test_a_run_is_as_long_as_epochs_or_steps_say() -> None:
    assert TrainConfig(epochs=3, accumulate=2).total_steps(10) == 15
    assert TrainConfig(steps=7).total_steps(10) == 7
    with pytest.raises(ValidationError, match="exactly one"):
        TrainConfig()
    with pytest.raises(ValidationError, match="exactly one"):
        TrainConfig(epochs=1, steps=1)
