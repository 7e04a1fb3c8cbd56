"""The base of every settings class: frozen, strict, closed to unknown keys; and bounded numbers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Bounds that no training needs to exceed; a setting beyond them is a slip of the keyboard. A
# message states the bound.
PositiveInt = Annotated[int, Field(ge=1, le=1_000_000)]
NonNegativeInt = Annotated[int, Field(ge=0, le=1_000_000)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e9)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e9)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Channels = Annotated[int, Field(ge=1, le=8192)]  # of a layer
Cells = Annotated[int, Field(ge=1, le=256)]  # of a map that is pooled, per side
Batch = Annotated[int, Field(ge=1, le=65_536)]  # pictures
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]  # a year


class Section(BaseModel):
    """One section of a recipe or manifest.

    Validate with `model_validate_json`: strict JSON still takes a list for a tuple and a string
    for a path, while `"12"` for a number stays a mistake.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
