"""The interface between the training loop and the objective."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from compress.batch import Batch


@dataclass(frozen=True)
class SeparateTraining:
    """A module inside the objective that is trained by an AdamW of its own.

    Attributes:
        module: its parameters leave the main optimiser.
        lr: learning rate of the first step; it falls to 0 along a cosine over the run.
        weight_decay: decay of all its parameters.
        clip: largest L2 norm of all its gradients; None clips nothing.
    """

    module: nn.Module
    lr: float
    weight_decay: float
    clip: float | None


@dataclass(frozen=True)
class Term:
    """One weighted term compared with the task loss.

    Attributes:
        name: `<loss>/<term>`.
        value: the weighted term.
        ratio: value / task loss.
        gradient_ratio: norm of its gradient at the student's shared features / the task loss's.
    """

    name: str
    value: float
    ratio: float
    gradient_ratio: float


class Objective(nn.Module, ABC):
    """Named scalars to be summed and minimised; `student` is what is evaluated and shipped."""

    student: nn.Module

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return named scalars; their sum is to be minimised."""

    def at(self, step: int, total: int, *, measure: bool = False) -> None:
        """Receive the current `step` (0-based) of `total`.

        With `measure` the next forward pass also compares its terms; see `measured`.
        """

    def measured(self) -> list[Term]:
        """Return the comparison requested by `at(..., measure=True)`; empty without one."""
        return []

    def watched(self) -> frozenset[str]:
        """Return the losses that are active now; the loop stops when one stays exactly 0."""
        return frozenset()

    def separate(self) -> list[SeparateTraining]:
        """Return the modules that have an optimiser of their own."""
        return []

    def explain(self, batch: Batch) -> str:
        """Describe the models' maps on a batch, to locate a value that is not finite."""
        del batch
        return ""
