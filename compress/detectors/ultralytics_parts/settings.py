"""Settings that the families of `ultralytics` share: the name of a model, and its BatchNorm."""

import difflib
from typing import ClassVar

from pydantic import Field, field_validator

from compress.detectors.parts.settings import DetectorSection
from compress.detectors.ultralytics_parts.installed import is_installed


class NamedModel(DetectorSection):
    """The base of the settings of families whose models have names.

    Attributes:
        known: the names of a family's models.
        large: last letter of a large model's name -> its number of weights, about.
    """

    known: ClassVar[tuple[str, ...]]
    large: ClassVar[dict[str, int]]

    model: str
    # of BatchNorm's running statistics; the package's 0.03 needs some thousand steps
    bn_momentum: float = Field(default=0.1, gt=0, le=1)

    @classmethod
    def missing_package(cls) -> str | None:
        """See `DetectorSection.missing_package`."""
        return None if is_installed() else "ultralytics"

    def largest(self) -> tuple[int, int]:
        """See `DetectorSection.largest`."""
        return 0, self.large.get(self.model[-1], 0)

    @field_validator("model")
    @classmethod
    def _exists(cls, model: str) -> str:
        if model in cls.known:
            return model
        spelt = model.lower().removesuffix(".pt").removesuffix(".yaml")
        near = difflib.get_close_matches(spelt, cls.known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(
            f"there is no model {model[:80]!r}; {hint}there are {', '.join(cls.known)}"
        )
