"""What every entry of `distill` may say: how much it weighs, and when."""

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from compress.detector import DetectorSpec, Knowledge
from export.config import Section

if TYPE_CHECKING:
    from compress.losses.parts.classifier import ClassifierConfig

# What a method was written from: its authors' (or a toolkit's) released code, a description without
# any code, both, or nothing but a formula.
Source = Literal["released code", "reconstructed", "reconstructed in part", "formula"]


class LossSection(Section):
    """The base of a loss's settings; the weight and its path over the run.

    A fixed `weight` multiplies all terms. `weight: auto` chooses the factor that holds the sum of
    the terms at `ratio` of the task loss; it is measured over the first `window` active steps,
    then frozen, and written to the run's record.
    """

    written_from: ClassVar[Source] = "released code"

    weight: PositiveFloat | Literal["auto"] = 1.0
    ratio: PositiveFloat = 0.5  # of the task loss; for weight: auto
    window: PositiveInt = 50  # steps that weight: auto measures
    start: float = Field(default=0.0, ge=0, lt=1)  # share of the run before which nothing counts
    end: float = Field(default=1.0, gt=0, le=1)  # share of the run after which nothing counts
    warmup: float = Field(default=0.0, ge=0, le=1)  # share of the run over which it rises from 0
    decay: Literal["none", "linear", "cosine", "up_down"] = "none"  # from start to end

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start + self.warmup > self.end:
            raise ValueError(
                f"start {self.start:g} and warmup {self.warmup:g} reach beyond end {self.end:g}; "
                "all three are shares of the run"
            )
        return self

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return what to ask of both detectors in every step."""
        raise NotImplementedError

    def teacher_needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return what to ask of the teacher, where that is less than what the student is asked."""
        return self.needs(student, teacher)

    def wanted_classifier(self) -> "ClassifierConfig | None":
        """Return the settings of the classifier of object crops that it learns from, if any."""
        return None

    @property
    def fixed_weight(self) -> float:
        """The stated weight, or 1 under `auto`: the distiller multiplies by what it measured."""
        return 1.0 if self.weight == "auto" else self.weight


def check_weights(*weights: float) -> list[str]:
    """Say that nothing is imitated, if all of these weights are 0."""
    if any(weights):
        return []
    return ["all weights are 0, so nothing is imitated; give one or drop the loss"]


def schedule_factor(config: LossSection, step: int, total: int) -> float:
    """What all terms are multiplied by at `step` (0-based) of `total`; pure, so resuming is exact.

    `linear` falls as 1 - x and `cosine` as (1 + cos(pi x)) / 2, where x is the share of the time
    between start and end that has passed; `up_down` rises to 2 over the first quarter, then falls
    (Guo et al. 2021, released code).
    """
    position = step / max(1, total)
    if position < config.start or position >= config.end:
        return 0.0
    factor = 1.0
    if config.warmup:
        factor = min(1.0, (position - config.start + 1 / max(1, total)) / config.warmup)
    passed = (position - config.start) / (config.end - config.start)
    if config.decay == "linear":
        factor *= 1 - passed
    elif config.decay == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * passed))
    elif config.decay == "up_down":
        factor *= 1 + passed / 0.25 if passed <= 0.25 else 2 - 2 * (passed - 0.25) / 0.75
    return factor
