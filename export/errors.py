"""Every error that a user can cause, and the exit code that each one ends the program with."""

from typing import ClassVar

from export.plain_text import printable


class ToolkitError(Exception):
    """A failure that the user can mend; the message says where, what was found and what to do.

    A message may quote what a file holds; shown, it has no control characters but line breaks.
    """

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


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
