"""Class names: one rule for all formats."""

import unicodedata
from collections.abc import Callable, Sequence

from export.errors import DataError, shown, unsafe_character

_LONGEST = 200  # characters


def composed(name: str) -> str:
    """Return a class name in Unicode's composed form (NFC), in which names are compared."""
    return unicodedata.normalize("NFC", name)


def checked_name(name: object, where: str) -> str:
    """Return a class name that can stand in a line of text, such as one of `labels.txt`.

    Unicode has two forms of `é` and its kind; the composed one (NFC) is returned, so that a name
    is the same in every file, on whatever system it was written.

    Args:
        name: as the data set states it.
        where: file and place, for messages.

    Raises:
        DataError: no text, empty, too long, or with line breaks or other control characters.
    """
    if not isinstance(name, str):
        raise DataError(f"{where}: class name {shown(name)}; expected a text")
    if not name.strip():
        raise DataError(f"{where}: class name {shown(name)} is empty; give the class a name")
    if len(name) > _LONGEST:
        raise DataError(
            f"{where}: class name {shown(name, 40)} of {len(name)} characters; expected at most "
            f"{_LONGEST}"
        )
    unsafe = unsafe_character(name)
    if unsafe is not None:
        raise DataError(
            f"{where}: class name {shown(name)} holds {unsafe}, a character that ends lines or "
            "steers terminals; remove it"
        )
    return composed(name)


def checked_names(
    names: Sequence[object], file: object, place: Callable[[int], str]
) -> tuple[str, ...]:
    """Return the class names of a list; names that differ in Unicode form only are the same.

    Args:
        names: as the data set states them.
        file: name of the file, for messages.
        place: function from a name's index to its file and place, for messages.

    Raises:
        DataError: none, one that is not allowed, or one that is there twice.
    """
    if not names:
        raise DataError(f"{file}: no class names in it; expected at least one")
    found = [checked_name(name, place(index)) for index, name in enumerate(names)]
    first: dict[str, int] = {}
    for number, name in enumerate(found):
        before = first.setdefault(name, number)
        if before != number:
            raise DataError(
                f"{place(number)}: the class name {shown(name)} is there twice (classes {before} "
                f"and {number})"
            )
    return tuple(found)
