"""Write a file whole or not at all; test a folder before the work that fills it."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import BinaryIO

from export.errors import ToolkitError

try:
    import fcntl
except ImportError:  # Windows has no flock; two processes that write one file are not told apart
    fcntl = None  # type: ignore[assignment]


def require_writable(folder: Path, option: str) -> None:
    """Check that files can be written to `folder`; afterwards the disk holds what it held before.

    Args:
        folder: need not exist; its parents may be missing too.
        option: how another folder is chosen, such as `--out`.

    Raises:
        ToolkitError: the folder cannot be made, or no file can be written to it.
    """
    there = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    try:
        with tempfile.TemporaryDirectory(prefix=".slimdet-", dir=there) as trial:
            inside = Path(trial) / folder.relative_to(there)  # as long a path as it will be
            inside.mkdir(parents=True, exist_ok=True)
            (inside / "trial").write_bytes(b"trial")
    except NotADirectoryError:
        raise ToolkitError(
            f"{folder}: cannot be written to ({there} is no folder); choose another folder with "
            f"{option}"
        ) from None
    except (OSError, ValueError) as error:  # of a path with a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise ToolkitError(
            f"{folder}: cannot be written to ({reason}); choose another folder with {option}, or "
            "correct its permissions"
        ) from None


def free_bytes(folder: Path) -> int:
    """Return the free space of the disk that holds `folder`, which need not exist yet."""
    folder = folder.absolute()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    return shutil.disk_usage(there).free


def require_own(folder: Path, record: str, keys: Set[str], names: Sequence[str]) -> None:
    """Check that the files which will be replaced in a folder were written by an earlier call.

    Args:
        folder: as in `require_writable`, chosen with `--out`.
        record: JSON file that is written beside the others.
        keys: keys by which such a record is recognised.
        names: names of the other files.

    Raises:
        ToolkitError: one is there, and no record of these keys; names the file.
    """
    there = [name for name in (record, *names) if os.path.lexists(folder / name)]
    if not there:
        return
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads((folder / record).read_bytes())
        if isinstance(content, dict) and keys <= content.keys():
            return
    raise ToolkitError(
        f"{folder / there[0]}: is there, was not written by slimdet and would be replaced; move it "
        "away or choose another folder with --out"
    )


def write_bytes(content: bytes, path: Path) -> Path:
    """Write `content` to `path` under a temporary name first; make the folder if needed.

    Raises:
        ToolkitError: the disk is full or the folder may not be written.
    """
    write_together({path: content})
    return path


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together: every one under its name, or none.

    Raises:
        ToolkitError: the disk is full or a folder may not be written.
    """
    path = Path()
    partials = {path: path.with_name(path.name + ".partial") for path in contents}
    try:
        with contextlib.ExitStack() as opened:
            for path, content in contents.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                file = opened.enter_context(_opened_alone(partials[path]))
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # a power cut must leave no empty file under a good name
                if fcntl is None:  # Windows renames no file that is open
                    file.close()
            for path, partial in partials.items():
                partial.replace(path)
    except OSError as error:
        for partial in partials.values():
            with contextlib.suppress(OSError):
                partial.unlink()
        raise ToolkitError(
            f"{path}: could not be written ({error.strerror or error}); "
            "free some space or choose a folder that may be written"
        ) from error


def _opened_alone(partial: Path) -> BinaryIO:
    """Open an empty file; wait while another process has it open, as of a shared folder."""
    while True:
        file = partial.open("ab")
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), partial.stat()):
                    file.truncate(0)
                    return file
            file.close()  # the other process has given it its name meanwhile
            continue
        file.truncate(0)
        return file


def write_text(content: str, path: Path) -> Path:
    """Write `content` as UTF-8, whole or not at all."""
    return write_bytes(content.encode(), path)


def write_checked_json(content: object, path: Path) -> Path:
    """Write JSON with its SHA-256, for caches; `read_checked_json` reads it."""
    text = json.dumps(content, allow_nan=False)
    return write_json({"sha256": _sha256(text), "content": text}, path, indent=None)


def read_checked_json(path: Path) -> object | None:
    """Read what `write_checked_json` wrote; None for a missing, damaged or any other file."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        if not path.is_file():  # a pipe would wait for its writer
            return None
        found = json.loads(path.read_bytes())
        if found["sha256"] == _sha256(found["content"]):
            content: object = json.loads(found["content"])
            return content
    return None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(content: object, path: Path, *, indent: int | None = 2) -> Path:
    """Write JSON that any parser takes (no NaN); floats read back as the same floats."""
    return write_text(json.dumps(content, indent=indent, allow_nan=False) + "\n", path)
