"""Validation errors in plain words: what was expected, and what was found."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from export.errors import counted, printable, shown
from export.reading.plain_yaml import dotted

if TYPE_CHECKING:
    from pydantic import ValidationError

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "decimal": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "tuple": "a list",
    "list": "a list",
    "set": "a list",
    "dict": "a section of keys and values",
    "mapping": "a section of keys and values",
    "model": "a section of keys and values",
    "dataclass": "a section of keys and values",
    "none": "null",
}
_LIMITS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "at most {}"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
    "too_short": ("min_length", "a list of at least {} entries"),
    "too_long": ("max_length", "a list of at most {} entries"),
    "string_too_short": ("min_length", "text of at least {} characters"),
    "string_too_long": ("max_length", "text of at most {} characters"),
}
_OCTAL = re.compile(r"[-+]?0[0-9]+")
_GROUPED = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?")
_BINARY = re.compile(r"0b[01]{1,64}")


def described(kind: str, context: Mapping[str, object], value: object) -> str:
    """Describe one mistake.

    Args:
        kind: `type` of the error in pydantic's list.
        context: its `ctx`.
        value: what was given.
    """
    if kind in {"value_error", "assertion_error"}:
        return str(context.get("error", "does not fit here"))
    if kind == "missing":
        return "is missing, and has no default"
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "literal_error":
        return f"expected {context.get('expected')}, found {brief(value)}"
    if kind == "string_pattern_mismatch":
        return f"{brief(value, quote=True)} does not fit: it must match {context.get('pattern')}"
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        expected = words.format(_number(context.get(name)))
        return f"expected {expected.replace('1 entries', '1 entry')}, found {brief(value)}"
    expected = _EXPECTED.get(kind.partition("_")[0], "another value")
    hint = _how_to_write(value) if "number" in expected else ""
    return f"expected {expected}, found {brief(value)}{hint}"


def _how_to_write(value: object) -> str:
    """Return how to write a number that was written in another way than the setting takes."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"; write {int(value)}"
    if not isinstance(value, str):
        return ""
    if _OCTAL.fullmatch(value):
        return f"; some readers take a leading 0 for base 8: write {value.lstrip('+-0') or '0'}"
    if _BINARY.fullmatch(value):
        return f"; write {int(value, 2)}"
    if "_" in value and _GROUPED.fullmatch(value):
        return f"; write {value.replace('_', '')}, without underscores"
    return ""


def all_described(error: "ValidationError", most: int = 3) -> str:
    """Describe the first mistakes of a file by key, separated by `; `; equal ones once."""
    places: dict[str, list[str]] = {}
    details: Sequence[Mapping[str, object]] = error.errors(include_url=False)
    for one in details:
        place = one["loc"]
        key = dotted(place) if isinstance(place, tuple) else ""
        context = one.get("ctx")
        text = described(
            str(one["type"]), context if isinstance(context, Mapping) else {}, one.get("input")
        )
        places.setdefault(text, []).append(key)
    lines = []
    for text, keys in places.items():
        line = f"{keys[0]}: {text}" if keys[0] else text
        lines.append(line + (f" (and {len(keys) - 1} more like it)" if len(keys) > 1 else ""))
    more = sum(len(keys) for keys in list(places.values())[most:])
    return "; ".join(lines[:most]) + (f"; and {more} more" if more > 0 else "")


def brief(value: object, most: int = 60, *, quote: bool = False) -> str:
    """Write a value for a message: short, on one line, lists and sections by their size."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, Mapping):
        return f"a section of {counted(len(value), 'key')}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"a list of {counted(len(value), 'entry', 'entries')}"
    if quote or not isinstance(value, str | int | float | bool):
        return shown(value, most)
    try:
        text = printable(json.dumps(value, ensure_ascii=False))
    except ValueError:  # a number of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _number(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
