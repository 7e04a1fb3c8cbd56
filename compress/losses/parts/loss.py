"""The interface of every distillation loss: its settings and the module that they build.

A method is a `LossSection`, which a recipe names by `type`, and a `DistillationLoss`, which
compares the outputs of two detectors. `Distiller` and `check_pair` use only these two classes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self, TypeVar

from compress.batch import Batch
from compress.detector import DetectorSpec, Knowledge, Outputs, Rois
from compress.losses.parts.full_precision import in_full_precision
from compress.training.objective import SeparateTraining
from export.config import ClashError, PositiveFloat, PositiveInt, Section

if TYPE_CHECKING:
    from compress.losses.parts.classifier import Classifier, ClassifierConfig

# Named task losses of the frozen teacher on a batch with the student's labels; gradients reach the
# images.
TaskLosses = Callable[[Batch], Mapping[str, Tensor]]

# What a method was written from: the authors' (or a toolkit's) released code, a description without
# code, both, or a formula alone.
Source = Literal["released code", "reconstructed", "reconstructed in part", "formula"]

# Whose proposals both box heads score.
RoiSource = Literal["teacher", "student"]


class LossSection(Section, ABC):
    """The base of a loss's settings: what a recipe writes in an entry of `distill`.

    A subclass narrows `type` to a literal, adds its own fields and defines `check` and `build`. It
    states in `asks` what it compares, if not the pyramids' maps alone, or defines `needs` where
    that depends on the settings or the pair. One that overrides `disturb` or `view` of the loss
    sets `own_images`. A method that compares proposals derives from `RoiSection`
    (`compress/losses/parts/rows.py`), which has the setting `roi_source`.

    A fixed `weight` multiplies all terms. `weight: auto` chooses the factor that holds the sum of
    the terms at `ratio` times the task loss; it is measured over the first `window` active steps,
    then frozen, and written to the run's record.
    """

    written_from: ClassVar[Source] = "released code"
    asks: ClassVar[frozenset[Knowledge]] = frozenset({"features"})
    own_images: ClassVar[bool] = False  # whether it passes other images than the batch's

    type: str
    weight: PositiveFloat | Literal["auto"] = 1.0
    ratio: Annotated[float, Field(ge=1e-6, le=1000)] = 0.5  # of the task loss; for weight: auto
    window: PositiveInt = 50  # steps that weight: auto measures
    start: float = Field(default=0.0, ge=0, lt=1)  # share of the run before which the factor is 0
    end: float = Field(default=1.0, gt=0, le=1)  # share of the run after which the factor is 0
    warmup: float = Field(default=0.0, ge=0, le=1)  # share of the run over which it rises from 0
    decay: Literal["none", "linear", "cosine", "up_down"] = "none"  # from start to end

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start + self.warmup > self.end:
            raise ClashError(
                f"start {self.start:g} and warmup {self.warmup:g} reach beyond end {self.end:g}; "
                "all three are shares of the run",
                *("start", "warmup", "end"),
            )
        return self

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return the outputs that both detectors compute in every step."""
        del student, teacher
        return self.asks

    @abstractmethod
    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair, known from the specs alone."""

    @abstractmethod
    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "DistillationLoss":
        """Return the loss for this pair."""

    def teacher_needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return the outputs needed of the teacher, where they are not those of the student."""
        return self.needs(student, teacher)

    def proposals_from(self) -> RoiSource:
        """Return whose proposals both box heads score, for a method that compares proposals."""
        return "teacher"

    def wanted_classifier(self) -> "ClassifierConfig | None":
        """Return the settings of the crop classifier that it learns from; None without one."""
        return None

    @property
    def fixed_weight(self) -> float:
        """The stated weight, or 1 under `auto`, where the distiller applies the measured factor."""
        return 1.0 if self.weight == "auto" else self.weight

    def factor_at(self, step: int, total: int) -> float:
        """Return the factor of all terms at `step` (0-based) of `total`.

        It depends on the settings and the arguments alone, so a resumed run repeats it exactly.
        `linear` falls as 1 - x and `cosine` as (1 + cos(pi x)) / 2, where x is the share of the
        time between start and end that has passed; `up_down` rises to 2 over the first quarter,
        then falls (Guo et al. 2021, released code).
        """
        position = step / max(1, total)
        if position < self.start or position >= self.end:
            return 0.0
        factor = 1.0
        if self.warmup:
            factor = min(1.0, (position - self.start + 1 / max(1, total)) / self.warmup)
        passed = (position - self.start) / (self.end - self.start)
        if self.decay == "linear":
            factor *= 1 - passed
        elif self.decay == "cosine":
            factor *= 0.5 * (1 + math.cos(math.pi * passed))
        elif self.decay == "up_down":
            factor *= 1 + passed / 0.25 if passed <= 0.25 else 2 - 2 * (passed - 0.25) / 0.75
        return factor


ConfigT_co = TypeVar("ConfigT_co", bound=LossSection, covariant=True, default=LossSection)


class DistillationLoss(nn.Module, ABC, Generic[ConfigT_co]):
    """Weighted, named terms of one method; owns its adapters, which are trained and then dropped.

    A subclass names its settings class in brackets and defines `terms`. It may also override `at`,
    `phase`, `separate`, `use_classifier`, `compared`, `disturb`, `view` and `view_terms`.

    Attributes:
        config: the settings that built it.
        weight: factor of all terms.
        needs: outputs that both detectors compute in every step.
        teacher_needs: outputs that the teacher computes; it does not run for an empty set.
        unweighted: names of terms that train a part of `separate` alone and not the student; no
            weight, schedule or `weight: auto` applies to them.
    """

    unweighted: frozenset[str] = frozenset()
    config: ConfigT_co

    def __init__(self, config: ConfigT_co, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__()
        self.config = config
        self.weight = config.fixed_weight
        self.needs = config.needs(student, teacher)
        self.teacher_needs = config.teacher_needs(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return weighted named scalars, computed in fp32 under any autocast.

        The teacher's tensors are detached here. Every scalar is attached to the student's graph,
        also when it is zero, so that no process of a distributed run waits for a missing gradient.
        """
        return self._in_full_precision(self.terms, student, teacher, batch)

    def forward_view(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `view_terms` as `forward` returns `terms`."""
        return self._in_full_precision(self.view_terms, student, teacher, batch)

    def _in_full_precision(
        self,
        terms: Callable[[Outputs, Outputs, Batch], dict[str, Tensor]],
        student: Outputs,
        teacher: Outputs,
        batch: Batch,
    ) -> dict[str, Tensor]:
        device_type = student.features[0].device.type
        with torch.autocast(device_type, enabled=False):
            found = terms(
                in_full_precision(student, self.needs, detach=False),
                in_full_precision(teacher, self.needs | self.teacher_needs, detach=True),
                batch,
            )
        return {
            name: term if name in self.unweighted else self.weight * term
            for name, term in found.items()
        }

    def at(self, step: int, total: int) -> None:
        """Receive the current step and the run's length, for a rule that changes with them."""

    def phase(self) -> object:
        """Return what tells steps of different cost apart; constant for a loss without a rule."""
        return None

    def separate(self) -> SeparateTraining | None:
        """Return the part that is trained by an optimiser of its own, if there is one."""
        return None

    def use_classifier(self, classifier: "Classifier") -> None:
        """Receive the frozen classifier that `LossSection.wanted_classifier` asked for."""

    def compared(self, rois: Rois) -> Tensor | None:
        """Return which proposals this loss compares, (R,) bool; None for all of them.

        Proposals that no loss compares are not scored by the second model. A loss may be given
        more than it asked for, if another loss compares them.
        """
        del rois
        return None

    def disturb(self, batch: Batch) -> Batch:
        """Return the batch that both models receive, by default unchanged.

        The change applies to the task loss and to every other loss too.
        """
        return batch

    def view(self, batch: Batch, task_losses: TaskLosses) -> Batch | None:
        """Return further images on which both pyramids are computed; None for none.

        `task_losses` are the teacher's. The maps are passed to `view_terms`.
        """
        del batch, task_losses
        return None

    def view_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the terms on the images of `view`; the outputs hold `features` alone."""
        del student, teacher, batch
        return {}

    @abstractmethod
    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the terms without the overall weight; the teacher's tensors are detached."""


def weigh(terms: Mapping[str, tuple[float, Tensor]]) -> dict[str, Tensor]:
    """Multiply named (weight, value) pairs; a term of weight 0 is left out, not reported as 0."""
    return {name: weight * value for name, (weight, value) in terms.items() if weight}


def check_weights(*weights: float) -> list[str]:
    """Report that nothing is imitated, if all of these weights are 0."""
    if any(weights):
        return []
    return ["all weights are 0, so nothing is imitated; give one or drop the loss"]
