"""Short trainings of small pairs by one process or by several, for the contract on processes."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from compress.batch import Batch, Targets, full_size
from compress.console import Console
from compress.data.schedule import own_share
from compress.detectors.small_pairs import (
    CLASSES,
    SIZE,
    SmallPair,
    build_pair,
    small_pair,
    small_settings,
)
from compress.distillation.distiller import Distiller
from compress.losses import LossConfig
from compress.losses.parts.classifier import ClassifierConfig
from compress.parts.norm import Norm
from compress.stages.session import Session
from compress.training.job import TrainJob
from compress.training.loop import train
from compress.training.optim import TrainConfig
from tests.compress.detectors.small_rtdetr import small_description
from tests.compress.losses.scene import found_by_a_teacher

LOSS: TypeAdapter[Any] = TypeAdapter(LossConfig)
CLASSIFIER = ClassifierConfig.model_validate(
    {"backbone": {"type": "slim_resnet", "widths": (16, 16, 16, 16)}, "crop": 32}
)
SCHEDULE = {"steps": 3, "optimizer": "sgd", "lr": 0.02, "schedule": "constant", "amp": "off"}
SCHEDULE |= {"warmup": 0, "evaluations": 1, "measure_every": 2, "weight_decay": 0.01}


@dataclass(frozen=True)
class Cell:
    """One training to compare.

    Attributes:
        name: for messages and file names.
        family: of both detectors, or of the student.
        loss: entry of `distill`; None for none.
        counts: boxes of each picture of a batch.
        labeled: how many of the pictures have labels.
        schedule: changes to `SCHEDULE`.
        norm: of both detectors.
        teacher: family of the teacher, where it is another.
    """

    name: str
    family: str
    loss: dict[str, Any] | None
    counts: tuple[int, ...]
    labeled: int
    schedule: dict[str, Any]
    norm: Norm = "group"
    teacher: str = ""


@dataclass(frozen=True)
class Made:
    """What a training left behind: tensors by name, and the rows of its two tables."""

    weights: dict[str, Tensor]
    results: list[dict[str, str]]
    terms: list[dict[str, str]]


def batch_of(cell: Cell, step: int, rank: int, world: int) -> Batch:
    """Draw a batch and return the part of one process, cut as `Schedule` cuts."""
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.rand(len(cell.counts), 3, *SIZE, generator=generator)
    targets = []
    for index, count in enumerate(cell.counts):
        count = count if index < cell.labeled else 0
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([50.0, 25.0])
        side = torch.rand(count, 2, generator=generator) * 25 + 12
        labels = torch.randint(0, CLASSES, (count,), generator=generator)
        targets.append(Targets(torch.cat((corner, corner + side), dim=1), labels))
    labeled, unlabeled = cell.labeled, len(cell.counts) - cell.labeled
    own = [*own_share(labeled, rank, world)]
    known = len(own)
    own += [labeled + index for index in own_share(unlabeled, rank, world)]
    taught = [found_by_a_teacher(target) for target in targets]
    ids = tuple(100 * step + index for index in own)
    return Batch(
        images[own],
        tuple(targets[index] for index in own),
        full_size(images[own]),
        ids,
        known,
        tuple(taught[index] for index in own),
    )


def objective_of(cell: Cell) -> Distiller:
    """Build the pair, seeded, with heads that see something."""
    torch.manual_seed(0)
    student, teacher = pair_of(cell.family, cell.teacher, cell.norm)
    for model in (student, teacher):
        _smooth(model)
    if cell.family == "rtdetr":
        # the package draws the noise for the pictures of a process, in their own order
        cast("Any", student).head.num_denoising = 0
    losses = [] if cell.loss is None else [LOSS.validate_python(cell.loss)]
    classifier = None
    if any(loss.wanted_classifier() is not None for loss in losses):
        classifier = CLASSIFIER.build(CLASSES)
    return Distiller(student, teacher, losses, classifier=classifier)


def pair_of(family: str, teacher: str = "", norm: Norm = "group") -> SmallPair:
    """Build a pair of one family, or of a student of it and a teacher of another."""
    if not teacher:
        return small_pair(family, norm=norm)
    return build_pair(small_settings(family, norm=norm), small_settings(teacher))


def _smooth(module: nn.Module) -> None:
    """Replace every ReLU: one process and two round differently, and at its kink that shows."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.SiLU())
        else:
            _smooth(child)


def trained(cell: Cell, session: Session, live: Path) -> Distiller:
    """Train the cell's pair in all processes of the session; the tables are in `live`."""
    objective = objective_of(cell)
    assert objective.teacher is not None
    objective.teacher.to(session.torch_device())

    def batches(first: int, count: int) -> Iterator[Batch]:
        rank, world = session.rank, session.world
        return (batch_of(cell, step, rank, world) for step in range(first, first + count))

    def evaluate(_model: nn.Module) -> dict[str, float | None]:
        return {"AP": 0.5}

    config = TrainConfig.model_validate({**SCHEDULE, **cell.schedule})
    fabric = session.fabric("bf16-mixed" if config.amp == "bf16" else "32-true")
    assert config.steps is not None
    train(
        TrainJob(
            name=cell.name,
            objective=objective,
            batches=batches,
            config=config,
            total=config.steps,
            live=live,
            evaluate=evaluate,
            fabric=fabric,
            seed=3,
            console=session.console,
        )
    )
    return objective


def made(objective: Distiller, live: Path) -> Made:
    """Return what the training of `objective` left behind."""
    weights = {name: value.clone() for name, value in objective.state_dict().items()}
    tables = []
    for name in ("results.csv", "terms.csv"):
        path = live / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        tables.append(list(csv.DictReader(text.splitlines())))
    return Made(weights, tables[0], tables[1])


def alone(cells: Sequence[Cell], home: Path) -> dict[str, Made]:
    """Train every cell in this process."""
    session = Session(home, "cpu", Console(quiet=True))
    return {
        cell.name: made(trained(cell, session, home / cell.name), home / cell.name)
        for cell in cells
    }


def one_of(rank: int, world: int, cells: Sequence[Cell], home: Path) -> None:
    """Train every cell as process `rank` of `world`, as torchrun starts it."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": (home / "port").read_text(),
        "TORCHELASTIC_RUN_ID": "test",
    }
    session = Session(home, "cpu", Console(quiet=True))
    for cell in cells:
        with small_description():
            objective = trained(cell, session, home / cell.name)
        if rank == 0:
            found = made(objective, home / cell.name)
            partial = home / f"{cell.name}.partial"
            torch.save((found.weights, found.results, found.terms), partial)
            partial.replace(home / f"{cell.name}.pt")
    torch.distributed.destroy_process_group()
