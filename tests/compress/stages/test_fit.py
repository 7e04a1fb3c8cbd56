"""The batches of a training follow its own length."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from compress.batch import Batch
from compress.distillation.distiller import Distiller
from compress.parts.weights import read_tensors
from compress.stages.fit import batches_of, fit
from compress.stages.model_name import ModelName
from compress.stages.opened import Run
from compress.training.job import TrainJob
from compress.training.loop import train
from tests.compress.smoke import opened_smoke

CLOSING = "data.augment={flip: 0, mosaic: 1.0, close_mosaic: 0.5}"
WITHOUT = "data.augment={flip: 0, mosaic: 0.0, close_mosaic: 0.5}"


def batches(run: Run, total: int) -> list[torch.Tensor]:
    config = run.recipe.train
    made = batches_of(run.session, run.data, config, run.recipe.seed, total)
    return [batch.images for batch in made(0, total * config.accumulate)]


@pytest.mark.parametrize(("accumulate", "total", "last"), [(1, 4, 2), (1, 6, 3), (2, 2, 2)])
def test_mosaics_end_by_the_length_of_the_training_not_of_the_schedule(
    tmp_path: Path, accumulate: int, total: int, last: int
) -> None:
    """The baseline of equal time is longer than the recipe's schedule of 4 steps."""
    given = f"train.accumulate={accumulate}"
    closing, without = (
        batches(opened_smoke(tmp_path, each, given), total) for each in (CLOSING, WITHOUT)
    )
    same = [torch.equal(a, b) for a, b in zip(closing, without, strict=True)]
    assert same == [False] * last + [True] * (len(same) - last)


def test_a_distilled_step_may_have_fewer_labelled_pictures_than_a_plain_one(tmp_path: Path) -> None:
    given = ("data.unlabeled={count: 6}", "train.labeled_batch=1", "train.unlabeled_batch=3")
    run = opened_smoke(tmp_path, *given)
    student, teacher = run.build_student(0), run.build_student(1)
    objectives = (Distiller(student, teacher, run.recipe.distill), Distiller(student))
    parts = []
    for objective in objectives:
        made = batches_of(run.session, run.data, run.recipe.train, 0, 9, objective)
        parts.append([(batch.labeled, len(batch.images)) for batch in made(0, 9)])
    assert parts == [[(1, 4)] * 9, [(4, 4)] * 9]


@pytest.mark.slow
def test_a_training_closes_its_mosaics_and_says_when(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = []
    for name, settings in (("closed", CLOSING.replace("0.5", "1.0")), ("none", WITHOUT)):
        (tmp_path / name).mkdir()
        run = opened_smoke(tmp_path / name, settings, "distill=[]", quiet=False)
        student = ModelName(0, "student")

        def build(run: Run = run) -> Distiller:
            return Distiller(run.build_student(0))

        folder = fit(run, student, build, run.data, run.recipe.train, seed=0, steps=3)
        weights.append(read_tensors(folder / "model.safetensors", "student"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    said = capsys.readouterr().err
    assert said.count("3 steps of 4 of 8 pictures, mosaics up to step 0, ") == 1
    assert said.count("mosaics up to") == 1


def trained(run: Run, live: Path, cut: int | None = None) -> dict[str, torch.Tensor]:
    """Train 6 steps on the run's batches; end without a warning before the batch `cut`."""
    config, session = run.recipe.train, run.session
    made = batches_of(session, run.data, config, 0, 6)

    def batches(first: int, count: int) -> Iterator[Batch]:
        for number, batch in enumerate(made(first, count), start=first):
            if number == cut:
                raise ConnectionAbortedError
            yield batch

    objective = Distiller(run.build_student(0))
    return train(
        TrainJob(
            name="seed0-student",
            objective=objective,
            batches=batches,
            config=config,
            total=6,
            live=live,
            evaluate=lambda _: {"AP": 0.0},
            fabric=session.fabric("32-true"),
            seed=0,
            console=session.console,
        )
    ).state


@pytest.mark.slow
def test_a_training_cut_around_the_last_mosaic_ends_as_one_that_was_not(tmp_path: Path) -> None:
    run = opened_smoke(tmp_path, CLOSING)
    whole = trained(run, tmp_path / "whole")
    for cut in (2, 3, 4):  # the first step without mosaics is 3
        with pytest.raises(ConnectionAbortedError):
            trained(run, tmp_path / str(cut), cut)
        assert (tmp_path / str(cut) / "last.pt").exists()
        resumed = trained(run, tmp_path / str(cut))
        assert all(torch.equal(resumed[name], weights) for name, weights in whole.items())
    open_end = opened_smoke(tmp_path, CLOSING.replace("0.5", "0.0"))
    other = trained(open_end, tmp_path / "other")
    assert not all(torch.equal(other[name], weights) for name, weights in whole.items())
