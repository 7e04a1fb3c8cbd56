"""Checkpoints of a training: written atomically; they hold only tensors, numbers and text."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from typing_extensions import NotRequired

from export.errors import ToolkitError


class Checkpoint(TypedDict):
    """The state of a training between two steps; lists and records are kept as JSON.

    Attributes:
        objective: the objective's tensors, the student's among them.
        optimizer: state of the optimiser.
        separate: states of the optimisers of modules with a schedule of their own.
        scaler: state of the gradient scaler of 16-bit training; empty for other precisions.
        ema: tensors of the averaged model; None without averaging.
        ema_updates: number of updates of the averaged model.
        step: number of optimiser steps taken.
        seconds: time spent in steps.
        processor_seconds: processor time spent in steps; None where it is not known for all
            steps, and absent in checkpoints of earlier versions.
        rows: one record per evaluation.
        sums: sum of every loss term since the last evaluation.
        terms: comparisons of distillation terms with the task loss.
        idle: number of steps in a row in which a term was exactly 0.
        summed: number of batches in `sums`.
        best: tensors of the best evaluation; None where they are not kept.
        best_ap: AP of the best evaluation, 0..1.
        stale: number of evaluations since the best one.
        rng: state of torch's generator on the CPU.
        conditions: device, threads and versions by step; absent in checkpoints of earlier versions.
    """

    objective: dict[str, Tensor]
    optimizer: dict[str, Any]
    separate: list[dict[str, Any]]
    scaler: dict[str, Any]
    ema: dict[str, Tensor] | None
    ema_updates: int
    step: int
    seconds: float
    rows: str
    sums: str
    terms: str
    idle: str
    summed: int
    best: dict[str, Tensor] | None
    best_ap: float
    stale: int
    rng: Tensor
    conditions: NotRequired[str]
    processor_seconds: NotRequired[float | None]


def save_checkpoint(state: Checkpoint, path: Path) -> None:
    """Write `state` to `path` atomically: the previous file stays until the new one is complete."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise ToolkitError(
            f"{path}: the checkpoint cannot be written ({error}). The one before is kept; make "
            "room on the disk and run the same command again to go on from it"
        ) from error


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint | None:
    """Read what `save_checkpoint` wrote; None if there is none. Only tensors are loaded.

    Raises:
        ToolkitError: the file is damaged.
    """
    if not path.exists():
        return None
    with restoring(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch reads on over wrong checksums
        if damaged is not None:
            raise ValueError(damaged)
        state: Checkpoint = torch.load(path, map_location=device, weights_only=True)
        return state


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Tell in one message what goes wrong while the body reads the checkpoint `path`.

    Raises:
        ToolkitError: the file cannot be read, is damaged, or is not of this training.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except PermissionError as error:
        raise ToolkitError(
            f"{path}: the checkpoint cannot be read ({error.strerror}); correct its permissions, "
            "or delete it to begin this training again"
        ) from error
    except Exception as error:  # torch, zipfile and the modules have their own kinds
        raise ToolkitError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}); delete it to begin this "
            "training again"
        ) from error
