"""Numbers of a recipe that are larger than what they are of: refused, or cut with a warning."""

from collections.abc import Iterator

from benchmarks.timing.environment import usable_cores
from compress.data.config import Data
from compress.data.loading import steps_per_epoch
from compress.memory import GIB, machine_bytes
from compress.stages.opened import Run, pictures_in_step
from compress.training.optim import TrainConfig
from export.errors import DataError, RecipeError, counted
from export.reading.plain_yaml import Key

SCHEDULES = {  # settings that only some schedules or optimisers read
    "milestones": ("schedule", ("step",)),
    "gamma": ("schedule", ("step",)),
    "final_lr": ("schedule", ("one_cycle", "cosine")),
    "momentum": ("optimizer", ("sgd",)),
}


def check_amounts(run: Run) -> None:
    """Compare the numbers that the recipe sets with pictures, steps and the machine.

    A setting that is cut causes a warning that states its largest value; defaults cause none.

    Raises:
        RecipeError: a number that this machine or this training cannot have.
    """
    recipe, at = run.recipe, run.source.at
    threads, cores = recipe.benchmark.threads, usable_cores()
    if threads is not None and threads > cores:
        raise RecipeError(
            f"{at('benchmark', 'threads')}: {threads}, and this machine has "
            f"{counted(cores, 'processor')} for this process; set at most {cores}, or remove this "
            "key for what the runtime chooses"
        )
    warnings = [*_of_pictures(run), *_of_teaching(run), *_of_the_machine(run)]
    for one in run.trainings:
        per_epoch = check_batch(run, one.config, one.data, one.keys)
        warnings += _of_training(run, one.config, per_epoch, one.keys)
    for line in warnings:
        run.session.console.warn(line)


def check_batch(run: Run, config: TrainConfig, data: Data, keys: Key) -> int:
    """Return how many whole batches the pictures of a training make.

    Args:
        run: for messages.
        config: settings of the training.
        data: its pictures.
        keys: path of its settings in the recipe.

    Raises:
        DataError: there are fewer pictures than one batch needs.
    """
    if config.batch > len(data.train):
        pictures = counted(len(data.train), "picture")
        raise DataError(
            f"{run.source.at(*keys, 'batch', beside=[(*keys[:-1], 'data', 'train')])}: "
            f"{config.batch}, and {data.train.source} has only {pictures}; choose a smaller batch "
            "or give more pictures"
        )
    return steps_per_epoch(data, config.batch)


def _of_pictures(run: Run) -> Iterator[str]:
    """Yield a line for each number of pictures of which there are fewer."""
    export, benchmark = run.recipe.export, run.recipe.benchmark
    train, val = len(run.data.train), len(run.data.val)
    asked = (
        (export.calibration, "count", ("export", "calibration"), train, "of train"),
        (
            export.quantization,
            "check_images",
            ("export", "quantization"),
            train // 2,
            "in half of train",
        ),
        (export, "parity_images", ("export",), val, "of val"),
        (benchmark, "images", ("benchmark",), val, "of val"),
    )
    for section, name, keys, most, where in asked:
        count = getattr(section, name)
        if name in section.model_fields_set and count > most:
            place = run.source.at(*keys, name)
            yield f"{place}: {count}, and there are {most} pictures {where}, which are taken"


def _of_teaching(run: Run) -> Iterator[str]:
    """Yield a line for each number of views that no training sees, or of pictures not there."""
    recipe, data, at = run.recipe, run.data, run.source.at
    if recipe.teach is None:
        return
    config, pictures = recipe.train, pictures_in_step(data, recipe.train)
    batches = config.total_steps(steps_per_epoch(data, config.batch)) * config.accumulate
    seen = -(-batches // max(1, len(data.train) // pictures.labeled))
    if "views" in recipe.teach.model_fields_set and recipe.teach.views > seen:
        yield (
            f"{at('teach', 'views')}: {recipe.teach.views}, and the training sees a picture "
            f"{counted(seen, 'time')}; no more views are stored"
        )
    if recipe.teach.unlabeled_views is not None and data.unlabeled is None:
        yield f"{at('teach', 'unlabeled_views')}: has no effect without data.unlabeled"


def _of_the_machine(run: Run) -> Iterator[str]:
    """Yield a line for each number that is larger than the machine."""
    config, at = run.recipe.data, run.source.at
    cpu = run.session.torch_device().type == "cpu"
    memory = machine_bytes(run.session.torch_device()) if cpu else None
    if memory is not None and config.cache_gib * GIB > memory:
        yield (
            f"{at('data', 'cache_gib')}: {config.cache_gib:g}, and this machine has "
            f"{memory / GIB:.1f} GiB of memory"
        )


def _of_training(run: Run, config: TrainConfig, per_epoch: int, keys: Key) -> Iterator[str]:
    """Yield a line for each setting of a training that is cut or has no effect.

    Raises:
        RecipeError: one optimiser step would take more batches than the training has.
    """
    at, given = run.source.at, config.model_fields_set
    length = [(*keys, "epochs"), (*keys, "batch")]
    if config.epochs is not None and config.accumulate > config.epochs * per_epoch:
        raise RecipeError(
            f"{at(*keys, 'accumulate', beside=length)}: {config.accumulate} batches to an "
            f"optimiser step, and {counted(config.epochs, 'epoch')} of "
            f"{counted(per_epoch, 'batch', 'batches')} have fewer; lower it, or set more epochs"
        )
    steps = config.total_steps(per_epoch)
    if "evaluations" in given and config.evaluations > steps:
        yield (
            f"{at(*keys, 'evaluations')}: {config.evaluations}, and there are "
            f"{counted(steps, 'step')}; each is followed by one"
        )
    if config.patience is not None and config.patience >= min(config.evaluations, steps):
        yield (
            f"{at(*keys, 'patience')}: has no effect, as there are "
            f"{counted(min(config.evaluations, steps), 'evaluation')}; set train.evaluations higher"
        )
    cores = usable_cores()
    if config.workers > cores:
        yield (
            f"{at(*keys, 'workers')}: {config.workers}, and this machine has "
            f"{counted(cores, 'processor')} for this process; more workers take memory and no "
            "less time"
        )
    for name, (chosen_by, values) in SCHEDULES.items():
        value = getattr(config, chosen_by)
        if name in given and value not in values:
            yield f"{at(*keys, name)}: has no effect with {chosen_by}: {value}"
