"""TensorBoard: event files beside the checkpoints of each training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.tracking.tracker import Experiment, Outcome

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes `training/<model>/events.out.tfevents...`; the report stays out of it."""

    def __init__(self, experiment: Experiment) -> None:
        self._folder = experiment.home / "training"
        self._writers: dict[str, SummaryWriter] = {}

    def begin(self, model: str, step: int) -> None:
        """Open a file; events after `step` of an interrupted training are superseded."""
        from torch.utils.tensorboard import SummaryWriter

        purge = step + 1 if step else None
        self._writers[model] = SummaryWriter(str(self._folder / model), purge_step=purge)

    def log(self, model: str, figures: Mapping[str, float], step: int) -> None:
        """Write one scalar for each figure."""
        for name, value in figures.items():
            self._writers[model].add_scalar(name, value, step)

    def end(self, model: str) -> None:
        """Close the training's file."""
        self._writers.pop(model).close()

    def report(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Do nothing: the report is a page of its own."""

    def close(self, outcome: Outcome) -> None:
        """Do nothing: no file is open between trainings."""
