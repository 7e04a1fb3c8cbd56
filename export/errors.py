"""All errors that a user can cause, with the exit code of each.

Also how text from outside is shown: without control characters or escape sequences, and cut.
"""

import re
import unicodedata
from typing import ClassVar

# Categories of Unicode that change how the text around them is shown, or break the line: control,
# format (bidirectional overrides among them), lone surrogates, line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Joiners that scripts and emoji need inside a word.
_JOINERS = frozenset("\u200c\u200d")

# What Markdown, GitHub's too, takes for more than text; intervals are kept.
_MARKUP = re.compile(
    r"(?P<kept>\[[-+\u2212\d](?:[^\W_]|[-+\u2212.,%\s])*\](?![(:\[]))|://|www\.|[\\`*~\[\]|&<>]|(?<!\w)_|_(?!\w)"
)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class ToolkitError(Exception):
    """A failure that the user can fix; the message says where, what was found and what to do.

    A message may quote what a file holds; shown, its control characters are escapes. Each argument
    is one line, so that a line break in a file's name begins no line of its own.
    """

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return "\n".join(printable(str(line)) for line in self.args)


class RecipeError(ToolkitError):
    """The recipe, an override or the run folder contradicts itself or the rules."""

    exit_code = 2


class DataError(ToolkitError):
    """A dataset, picture or annotation is missing or cannot be used."""

    exit_code = 3


class MissingDependencyError(ToolkitError):
    """An optional package, or weights that only a network could fetch, are not here."""

    exit_code = 4


class DivergedError(ToolkitError):
    """Training met a loss that is not finite."""

    exit_code = 5


class ExportError(ToolkitError):
    """An artifact could not be made, opened or trusted."""

    exit_code = 6


def unsafe_character(text: str) -> str | None:
    """Return the first character of `text` that must not be shown, written as U+XXXX, or None."""
    return next((f"U+{ord(one):04X}" for one in text if not _is_safe(one)), None)


def printable(text: str, keep: str = "") -> str:
    """Return `text` with every unsafe character written as an escape of Python.

    Args:
        text: anything.
        keep: unsafe characters to leave as they are, such as a line break.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if _is_safe(one) or one in keep else _escaped(one) for one in text)


def as_markdown(text: str) -> str:
    """Return one line that Markdown shows as `text`: without links, pictures, tags and emphasis.

    Intervals such as `[1.2, 1.4]` stay readable in the source.
    """
    return _MARKUP.sub(_defused, printable(text))


def shown(value: object, limit: int = 80) -> str:
    """Return how a value is written in a message: as Python writes it, printable and cut."""
    try:
        text = printable(repr(value))
    except (ValueError, RecursionError):  # a number of over 4,300 digits, a list inside itself
        text = f"({type(value).__name__})"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def counted(count: int, one: str, more: str = "") -> str:
    """Return a count with its noun: `1 box`, `2 boxes`; `more` is the plural, or `one` and an s."""
    return f"{count} {one if count == 1 else more or one + 's'}"


def _defused(found: re.Match[str]) -> str:
    text = found[0]
    if found["kept"]:
        return text
    if len(text) > 1:  # the beginning of an address
        return f"{text[:-1]}\\{text[-1]}"
    return _ENTITIES.get(text, f"\\{text}")


def _is_safe(character: str) -> bool:
    return unicodedata.category(character) not in _UNSAFE or character in _JOINERS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
