"""What the training loop asks of the thing that it minimises, and nothing else of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from compress.batch import Batch


@dataclass(frozen=True)
class SeparateTraining:
    """A module inside the objective that is trained by an AdamW of its own.

    Attributes:
        module: its parameters leave the main optimiser.
        lr: at the first step; falls to 0 along a cosine over the run.
        weight_decay: of all its parameters.
        clip: L2 norm of all its gradients; None clips nothing.
    """

    module: nn.Module
    lr: float
    weight_decay: float
    clip: float | None


@dataclass(frozen=True)
class Term:
    """How one weighted term stands to the task loss.

    Attributes:
        name: `<loss>/<term>`.
        value: of the term, weighted.
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
        """Learn where the run is: before `step` (0-based) of `total`.

        With `measure` the next forward pass also compares its terms; `measured` returns that.
        """

    def measured(self) -> list[Term]:
        """The comparison that `at(..., measure=True)` asked for; empty without one."""
        return []

    def watched(self) -> frozenset[str]:
        """Terms that should be doing something now: the loop stops when one stays exactly 0."""
        return frozenset()

    def separate(self) -> list[SeparateTraining]:
        """Modules with an optimiser of their own."""
        return []

    def explain(self, batch: Batch) -> str:
        """Say where in the models a value that is not finite, or no value, may come from."""
        del batch
        return ""
