"""What training a detector and training the classifier of crops have in common."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from compress.batch import Batch
from compress.data import Data
from compress.loading import training_batches
from compress.objective import Objective
from compress.optim import TrainConfig
from compress.precision import Precision
from compress.rundir import once
from compress.session import Session
from compress.train import Evaluate, Trained, train
from compress.weights import save_weights
from export.atomic import write_json

Batches = Callable[[int, int], Iterator[Batch]]  # of a first step and a number of steps


def batches_of(
    session: Session, data: Data, config: TrainConfig, seed: int, *, unlabeled: int = 0
) -> Batches:
    """Return where this process gets its share of batches, `unlabeled` pictures in each."""

    def batches(first: int, count: int) -> Iterator[Batch]:
        return training_batches(
            data,
            batch=config.batch,
            seed=seed,
            start_step=first,
            steps=count,
            rank=session.rank,
            world=session.world,
            workers=config.workers,
            unlabeled_batch=unlabeled,
            pin=session.torch_device().type == "cuda",
            device=session.torch_device(),
        )

    return batches


def train_named(
    session: Session,
    name: str,
    objective: Objective,
    batches: Batches,
    config: TrainConfig,
    total: int,
    evaluate: Evaluate,
    *,
    precision: Precision,
    seed: int,
) -> Trained:
    """Run `train`; what it needs to be resumed is in `training/<name>`."""
    return train(
        objective,
        batches,
        config,
        total,
        session.home / "training" / name,
        evaluate,
        fabric=session.fabric(precision),
        seed=seed,
        console=session.console,
        what=name,
    )


def furnish(
    session: Session, room: Path, trained: Trained, record: dict[str, Any], precision: Precision
) -> None:
    """Write the room: `model.safetensors` and `training.json`; the first process does it."""

    def write(partial: Path) -> None:
        save_weights(trained.state, partial / "model.safetensors")
        write_json(record, partial / "training.json")

    if session.rank == 0:
        once(room, write)
    session.fabric(precision).barrier()
