"""ICD in the training loop: two optimisers, one run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from compress.batch import Batch, Targets, full_size
from compress.console import Console
from compress.detector import Detector
from compress.detectors.gfl import GflConfig
from compress.distillation.distiller import Distiller
from compress.losses.icd import IcdConfig
from compress.training.job import Trained, TrainJob
from compress.training.loop import train
from compress.training.optim import TrainConfig

SLIM = {"type": "slim_resnet", "widths": (16, 16, 16, 16)}
STEPS = 4


class CutError(Exception):
    """The power went."""


def detector() -> Detector:
    settings = {"type": "gfl", "backbone": SLIM, "width": 16, "head_depth": 1, "reg_max": 4}
    return GflConfig.model_validate({**settings, "strides": (8, 16)}).build(2, (64, 64))


def batches(first: int, count: int) -> Iterator[Batch]:
    for step in range(first, first + count):
        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(step))
        target = Targets(torch.tensor([[8.0, 8.0, 40.0, 44.0]]), torch.tensor([1]))
        yield Batch(images, (target, target), full_size(images), (2 * step, 2 * step + 1), 2)


def interrupted(first: int, count: int) -> Iterator[Batch]:
    del count
    yield from batches(first, 2)
    raise CutError


def fit(live: Path, feed=batches) -> tuple[Distiller, Trained]:
    torch.manual_seed(0)
    objective = Distiller(detector(), detector(), [IcdConfig(type="icd", delay_steps=1)])
    config = TrainConfig(steps=STEPS, lr=0.01, amp="off", evaluations=2, checkpoint_every_s=1e-9)
    job = TrainJob(
        name="student",
        objective=objective,
        batches=feed,
        config=config,
        total=STEPS,
        live=live,
        evaluate=lambda _model: {"AP": 0.5},
        fabric=Fabric(accelerator="cpu", devices=1),
        seed=3,
        console=Console(quiet=True),
    )
    return objective, train(job)


@pytest.mark.slow
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, trained = fit(tmp_path / "whole")
    with pytest.raises(CutError):
        fit(tmp_path / "cut", interrupted)
    again, _ = fit(tmp_path / "cut")
    for (name, one), two in zip(
        whole.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two), name
    # what ships is the student alone; the decoder has moved, but by a rate of its own: AdamW's
    # first steps are as long as the rate, here at most 1e-4 each
    assert trained.state.keys() == whole.student.state_dict().keys()
    torch.manual_seed(0)
    start = Distiller(detector(), detector(), [IcdConfig(type="icd")]).state_dict()
    moved = whole.state_dict()["losses.0.decoder.predict.layers.2.weight"]
    step = (moved - start["losses.0.decoder.predict.layers.2.weight"]).abs().max()
    assert 1e-5 < float(step) <= STEPS * 1.1e-4
