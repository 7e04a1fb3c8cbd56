"""What a teacher cost before the training, in the record of the run."""

from collections.abc import Sequence

from benchmarks.timing.step_ratio import TeachingCost
from compress.data.loading import steps_per_epoch
from compress.stages.opened import Run, pictures_in_step
from compress.stages.rundir import FILE_RECORD, TEACHING, read_teaching_costs
from compress.stages.teaching.files import FILE_TEACHER
from compress.training.seals import write_sealed_json

STORES = ".teach"  # in the folder of all runs
FILES = {"weights", "transfer", "backbone_weights"}  # a network's weights are known by their hash


def record_cost(run: Run, name: str, views: int, size: int, ms: float, clamped: int = 0) -> None:
    """Write and print what a teacher cost before the training; in the first process only."""
    session, recipe = run.session, run.recipe
    if session.rank != 0:
        return
    pictures = sum(pictures_in_step(run.data, recipe.train))
    batches = recipe.train.accumulate * training_steps(run)
    cost = TeachingCost(views=views, bytes=size, ms=ms, passes=pictures * batches, clamped=clamped)
    costs = read_teaching_costs(run.home) | {name: cost}
    record = {one: known.model_dump(mode="json") for one, known in costs.items()}
    write_sealed_json(record, run.home / TEACHING)
    session.console.print(f"{name}: {cost.sentence()}")


def record_file_teacher(run: Run, kind: str, lines: Sequence[str], ap: float | None) -> None:
    """Print the description of a teacher that is a file, and write it for the report."""
    for line in lines:
        run.print(f"{FILE_TEACHER}: {line}")
    if run.session.rank == 0:
        record = {"type": kind, "lines": list(lines), "ap": ap}
        write_sealed_json(record, run.home / FILE_RECORD)


def training_steps(run: Run) -> int:
    """Return the optimiser steps of one training of the student, if it is not stopped early."""
    config = run.recipe.train
    return config.total_steps(steps_per_epoch(run.data, config.batch))
