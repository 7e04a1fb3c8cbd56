"""Check what the public functions are given: one message says what was found and expected."""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from os import PathLike, fspath
from pathlib import Path

from export.config import too_long
from export.errors import ToolkitError, shown

Kind = type[ToolkitError]  # the error of the function that was called


def a_path(
    value: object, name: str, error: Kind, expected: str = "expected text or a path"
) -> Path:
    """Return a path that is not empty.

    Args:
        value: what was given.
        name: the parameter's name.
        error: raised for anything else.
        expected: what the message says was expected.
    """
    text = fspath(value) if isinstance(value, str | PathLike) else None
    if not isinstance(text, str) or not text:
        raise error(f"{name} {_found(value)} is not a path; {expected}")
    problem = too_long(text)
    if problem is not None:
        raise error(f"{name} {_found(value)}: {problem}")
    return Path(text)


def a_whole_number(value: object, name: str, least: int, error: Kind, most: int = 1_000_000) -> int:
    """Return a whole number from `least` to `most`, also one of NumPy's."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise error(f"{name} {_found(value)}: expected a whole number of at least {least}")
    number = int(value)
    if number < least:
        raise error(f"{name} {number}: expected at least {least}")
    if number > most:
        raise error(f"{name} {number}: expected at most {most}")
    return number


def a_score(value: object, name: str, error: Kind) -> float:
    """Return a number in 0..1, also one of NumPy's."""
    score = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # a number of hundreds of digits
            score = float(value)
    if not 0 <= score <= 1:
        raise error(f"{name} {_found(value)}: expected a score in 0..1, such as 0.25")
    return score


def a_truth_value(value: object, name: str, error: Kind) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise error(f"{name} {_found(value)}: expected True or False")
    return value


def a_word(
    value: object, name: str, error: Kind, allowed: Iterable[str] = (), expected: str = ""
) -> str:
    """Return a text that is not empty, and one of `allowed` where there are any."""
    words = tuple(allowed)
    if not isinstance(value, str) or not value or (words and value not in words):
        said = f"one of {', '.join(words)}" if words else expected
        raise error(f"{name} {_found(value)}: expected {said}")
    return value


def texts(value: object, name: str, error: Kind, example: str) -> list[str]:
    """Return a list of texts; one text in place of a list is refused, since it is iterable too."""
    listed = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    given: Sequence[object] = list(value) if listed and isinstance(value, Iterable) else [None]
    for one in given:
        if not isinstance(one, str):
            what = _found(one if listed else value)
            raise error(f"{name} {what}: expected a list of texts, such as [{example!r}]")
    return [str(one) for one in given]


def _found(value: object) -> str:
    """Show a value of a plain type as it is written, and any other by its type."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return shown(value) if isinstance(value, str) else f"of type {type(value).__name__}"
