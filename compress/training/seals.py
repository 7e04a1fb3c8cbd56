"""Seals: the hashes of what a finished stage wrote, so that damage is noticed before it is used.

The seal of `teacher` is `.teacher.sha256` beside it, in the form of `sha256sum -c`. Runs of earlier
versions have none, and are used as they are.
"""

import re
import shutil
from pathlib import Path

from export.artifact.manifest import file_sha256
from export.atomic import write_json, write_text
from export.errors import ToolkitError

_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")
_ENDING = ".sha256"
AGAIN = "do this stage again; a training goes on from its last checkpoint"


def seal_of(path: Path) -> Path:
    """Return the file with the hashes of a file or folder."""
    return path.with_name(f".{path.name}{_ENDING}")


def seal(path: Path, content: Path | None = None) -> None:
    """Write the hashes of a file, or of all files in a folder.

    Args:
        path: the file or folder; names in the seal begin with its name.
        content: where it lies until it is moved to `path`.
    """
    found = content or path
    files = (
        sorted(file for file in found.rglob("*") if file.is_file()) if found.is_dir() else [found]
    )
    lines = [
        f"{file_sha256(file)}  {(Path(path.name) / file.relative_to(found)).as_posix()}\n"
        for file in files
    ]
    _remove_seal(path)
    write_text("".join(lines), seal_of(path))


def check_seal(path: Path, cure: str = AGAIN) -> None:
    """Compare a file or folder with its seal; other files in a folder are left alone.

    Args:
        path: the file or folder.
        cure: what deleting it makes the next start do.

    Raises:
        ToolkitError: a file is missing or has another hash, or the seal is damaged.
    """
    place = seal_of(path)
    try:
        found = _LINE.findall(place.read_text(encoding="utf-8"))
        lines = place.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        found, lines = [], []
    names = [name for _, name in found]
    if not found or len(found) != len(lines) or any(Path(n).parts[0] != path.name for n in names):
        raise ToolkitError(
            f"{place}: the record of hashes is damaged, so {path} cannot be trusted; delete {path} "
            f"to {cure}"
        )
    for sha256, name in found:
        file = path.parent / name
        if not file.is_file():
            raise ToolkitError(
                f"{file}: is missing, though {place} lists it; restore it, or delete {path} to "
                f"{cure}"
            )
        if file_sha256(file) != sha256:
            raise ToolkitError(
                f"{file}: was changed or damaged after it was finished: its SHA-256 is not the one "
                f"in {place}; restore it, or delete {path} to {cure}"
            )


def finish_seals(home: Path) -> None:
    """Write the seals below `home` that a kill interrupted; what they are of was whole before."""
    for partial in sorted(home.rglob(f".*{_ENDING}.partial")):
        path = partial.with_name(partial.name[1:].removesuffix(f"{_ENDING}.partial"))
        partial.unlink(missing_ok=True)
        if path.exists() and not seal_of(path).exists():
            seal(path)


def write_sealed_json(content: object, path: Path) -> None:
    """Write JSON and its seal; a kill in between leaves a file without one."""
    _remove_seal(path)
    write_json(content, path)
    seal(path)


def _remove_seal(path: Path) -> None:
    place = seal_of(path)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
