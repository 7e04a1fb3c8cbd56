"""Base of all settings classes (frozen, strict, unknown keys are errors), and their mistakes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from export.errors import shown

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
    "model_attributes": "a mapping of keys to values",
    "dataclass": "a mapping of keys to values",
    "none_required": "null",
}
_LIMITS = {
    "greater_than": ("a number above", "gt"),
    "greater_than_equal": ("a number of at least", "ge"),
    "less_than": ("a number below", "lt"),
    "less_than_equal": ("a number of at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
    "string_too_short": ("a text of at least this many characters:", "min_length"),
    "string_too_long": ("a text of at most this many characters:", "max_length"),
    "string_pattern_mismatch": ("a text that matches", "pattern"),
    "literal_error": ("one of", "expected"),
    "union_tag_invalid": ("one of", "expected_tags"),
}


class Section(BaseModel):
    """One section of a recipe or manifest.

    Validate with `model_validate_json`: strict JSON still takes a list for a tuple and a string
    for a path, while `"12"` for a number stays a mistake.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def mistakes(error: "ValidationError") -> str:
    """Return all mistakes in one line, in our own words: `key: found, expected`, up to three."""
    found = error.errors(include_url=False)
    told = [f"{'.'.join(map(str, one['loc'])) or 'content'}: {mistake(one)}" for one in found]
    return "; ".join(told[:3]) + (f"; and {len(told) - 3} more" if len(told) > 3 else "")


def mistake(error: "ErrorDetails") -> str:
    """Return what was found and what was expected at one key."""
    kind, limits = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "is missing, and has no default"
    if kind == "extra_forbidden":
        return "unknown key"
    if kind in {"value_error", "assertion_error"}:
        return error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"found {shown(error['input'])}, expected {expected(kind, limits)}"


def expected(kind: str, limits: Mapping[str, object]) -> str:
    """Return what was expected, from pydantic's type of an error and its context."""
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"{words} {limits.get(key)}"
    if kind in {"too_short", "too_long"}:
        bound, least = ("at least", "min_length"), ("at most", "max_length")
        words, key = bound if kind == "too_short" else least
        return f"{words} {limits.get(key)} entries"
    if kind == "finite_number":
        return "a finite number"
    return _KINDS.get(kind.rsplit("_", 1)[0], _KINDS.get(kind, "another value"))
