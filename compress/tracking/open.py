"""The trackers by their names in a recipe, and how a run opens them."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from compress.console import Console
from compress.tracking.mlflow import Mlflow
from compress.tracking.tensorboard import TensorBoard
from compress.tracking.tracker import Experiment, Tracker, Trackers
from compress.tracking.wandb import Wandb
from export.optional import require

TrackerName = Literal["tensorboard", "mlflow", "wandb"]
TRACKERS: dict[TrackerName, Callable[[Experiment], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": Mlflow,
    "wandb": Wandb,
}
EXTRAS: dict[TrackerName, str] = {"mlflow": "mlflow", "wandb": "wandb"}  # not in `train`


def check_trackers(names: tuple[TrackerName, ...]) -> None:
    """Find out before any training whether the trackers' packages are installed.

    Raises:
        MissingDependencyError: one is not; the message gives the pip command.
    """
    for name in names:
        if name in EXTRAS:
            require(name, extra=EXTRAS[name], purpose=f"track: [{name}]")


def open_trackers(
    names: tuple[TrackerName, ...], experiment: Experiment, console: Console
) -> Trackers:
    """Return the trackers that a recipe names; each opens when it is first needed."""
    return Trackers(console, {name: partial(TRACKERS[name], experiment) for name in names})
