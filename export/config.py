"""Base of all settings classes: frozen, strict, unknown keys are errors."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of a recipe or manifest.

    Validate with `model_validate_json`: strict JSON still takes a list for a tuple and a string
    for a path, while `"12"` for a number stays a mistake.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
