"""Input and result of one training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from compress.batch import Batch
from compress.console import Console
from compress.tracking.tracker import Trackers
from compress.training.conditions import Conditions
from compress.training.objective import Objective
from compress.training.optim import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Row = dict[str, float | int | None]
Batches = Callable[[int, int], Iterator[Batch]]
Evaluate = Callable[[nn.Module], dict[str, float | None]]


@dataclass(frozen=True)
class TrainJob:
    """Inputs of one training.

    Attributes:
        name: names the training in messages.
        objective: the loss to minimise; `objective.student` is evaluated and shipped.
        batches: `batches(first, count)` yields `count` batches from number `first` on; the same
            number must always yield the same batch.
        config: the training settings.
        total: optimiser steps.
        live: folder of checkpoints and logs, from which the training resumes.
        evaluate: returns the metrics of the student; `AP` among them selects the best weights.
        fabric: device, precision and processes.
        seed: seed of all randomness in the steps.
        console: output for messages and progress.
        trackers: loggers of the figures of every evaluation; none by default.
    """

    name: str
    objective: Objective
    batches: Batches
    config: TrainConfig
    total: int
    live: Path
    evaluate: Evaluate
    fabric: "Fabric"
    seed: int
    console: Console
    trackers: Trackers = field(default_factory=Trackers)


@dataclass(frozen=True)
class Trained:
    """The result of a finished training.

    Attributes:
        state: the student's weights to ship, on the CPU (the averaged ones under EMA).
        rows: one per evaluation: step, seconds and processor_seconds of the steps so far,
            learning_rate, the metrics, and the mean of every loss term since the one before.
        terms: one entry per comparison of a distillation term with the task loss.
        steps: optimiser steps taken.
        seconds: training time, without evaluations and checkpoints.
        stopped: reason of an early end, or "".
        conditions: conditions of the steps, see `Conditions`; several entries after a resumption
            under others.
    """

    state: dict[str, Tensor]
    rows: list[Row]
    terms: list[dict[str, Any]]
    steps: int
    seconds: float
    stopped: str
    conditions: tuple[Conditions, ...] = ()
