"""Read settings that are given in Python: nested mappings, lists, numbers, text and paths."""

import math
from collections.abc import Mapping
from os import PathLike, fspath

from pydantic import JsonValue

from export.errors import RecipeError, shown
from export.reading.plain_yaml import MOST_CHARACTERS, MOST_DEPTH, MOST_DIGITS, Key, dotted


def plain_copy(settings: Mapping[str, object]) -> dict[str, JsonValue]:
    """Return settings as plain data that shares nothing; tuples become lists, paths text.

    Raises:
        RecipeError: a value is of another type, a container holds itself, or the settings, what
            they share written out, are too many.
    """
    _Measure().size(settings, ())
    return {str(key): _copied(value) for key, value in settings.items()}


class _Measure:
    """Checks given settings, and counts their characters without copying them."""

    def __init__(self) -> None:
        # id of a container -> its characters and levels; None while inside it
        self.known: dict[int, tuple[int, int] | None] = {}

    def size(self, value: object, keys: Key) -> tuple[int, int]:
        """Return the characters of a value, shared parts counted every time, and its levels."""
        if not isinstance(value, Mapping | list | tuple):
            return _scalar_size(value, keys), 0
        if id(value) in self.known:
            known = self.known[id(value)]
            if known is None:
                raise _mistake(keys, "contains itself")
            return self._bounded(*known, keys)
        self._bounded(0, 1, keys)
        self.known[id(value)] = None
        size, levels = 2, 0
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, child in pairs:
            if isinstance(value, Mapping) and not isinstance(key, str):
                raise _mistake(keys, f"{shown(key)} stands as a key; a key is text")
            more, below = self.size(child, (*keys, key))
            size += more + (len(key) if isinstance(key, str) else 0)
            levels = max(levels, below)
        self.known[id(value)] = found = self._bounded(size, levels + 1, keys)
        return found

    @staticmethod
    def _bounded(size: int, levels: int, keys: Key) -> tuple[int, int]:
        if len(keys) + levels > MOST_DEPTH:
            raise _mistake(keys[:MOST_DEPTH], f"is nested more than {MOST_DEPTH} levels deep")
        if size > MOST_CHARACTERS:
            raise _mistake(keys, f"holds more than {MOST_CHARACTERS} characters")
        return size, levels


def _scalar_size(value: object, keys: Key) -> int:
    if value is None or isinstance(value, bool):
        return 1
    if isinstance(value, int):
        if abs(value) >= 10**MOST_DIGITS:
            raise _mistake(keys, f"a number of more than {MOST_DIGITS} digits")
        return 1
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _mistake(keys, f"expected a finite number, found {float(value)}")
        return 1
    text = fspath(value) if isinstance(value, PathLike) else value
    if not isinstance(text, str):
        raise _mistake(
            keys, f"holds a value that is no text, number or list, but {type(value).__name__}"
        )
    return 1 + len(text)


def _copied(value: object) -> JsonValue:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _copied(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(child) for child in value]
    return str(fspath(value)) if isinstance(value, PathLike) else str(value)


def _mistake(keys: Key, problem: str) -> RecipeError:
    return RecipeError(f"{dotted(keys) or 'recipe'}: {problem}")
