"""Text files of data sets, in the encodings and line ends that editors write."""

import re
from pathlib import Path

from export.errors import DataError, shown
from export.pictures.files import is_file
from export.reading.encodings import encoding_of

_LINE_END = re.compile(r"\r\n|\r|\n")
_MOST_BYTES = 1 << 28


def refuse_no_file(file: Path, what: str) -> None:
    """Refuse what stands in the place of a file and cannot be read as one.

    Raises:
        DataError: a link that leads nowhere, a folder, a pipe or a device, or one that cannot be
            looked at.
    """
    if is_file(file):
        return
    found = "no regular file"
    if file.is_symlink() and not file.exists():
        found = "a link that leads to no file"
    elif file.is_dir():
        found = "a folder"
    raise DataError(
        f"{file}: {found}, where {what} should be; put the file there, or remove the entry"
    )


def lies_within(file: Path, root: Path) -> bool:
    """Whether a file, or what it is a link to, lies in the folder of a data set."""
    return file.resolve().is_relative_to(root.resolve())


def quoted(value: object, file: Path, root: Path, limit: int = 80) -> str:
    """Return a value of `file` for a message; a link out of the data set is not quoted."""
    if lies_within(file, root):
        return shown(value, limit)
    return "(not shown, as the file is a link out of the data set)"


def read_text(file: Path, what: str) -> str:
    """Return the text of `file`: UTF-8, or what its byte order mark says.

    Args:
        file: regular file.
        what: its content, for messages: "a list of pictures".

    Raises:
        DataError: it is missing, too large or no text.
    """
    try:
        if not file.is_file():
            raise DataError(f"{file}: no such file; {what} was expected here")
        if file.stat().st_size > _MOST_BYTES:
            raise DataError(f"{file}: over {_MOST_BYTES >> 20} MiB, too large to be {what}")
        content = file.read_bytes()
        text = content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: cannot be read as {what}: byte {error.start} is not {error.encoding}; save "
            "it as UTF-8"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{file}: cannot be read as {what}: {reason}") from None
    if "\0" in text:
        raise DataError(f"{file}: cannot be read as {what}: it holds zero bytes; save it as UTF-8")
    return text


def read_lines(file: Path, what: str) -> list[str]:
    """Return the lines of a text file; only line feeds and carriage returns end one.

    Raises:
        DataError: it is missing, too large or no text.
    """
    lines = _LINE_END.split(read_text(file, what))
    return lines[:-1] if lines[-1] == "" else lines
