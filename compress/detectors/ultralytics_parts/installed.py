"""What is installed of the package `ultralytics`, found without importing it."""

import contextlib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from export.errors import MissingDependencyError

EXTRA = "yolo"
TESTED = (8, 4)  # the minor version that this project was written against
LEAST = (8, 4, 190)
DISTRIBUTIONS = ("ultralytics", "ultralytics-opencv-headless")
LICENCE = "AGPL-3.0"
PURPOSE = "A detector of type yolo or rtdetr"

_VERSION = re.compile(r"""^__version__\s*(?::\s*\w+\s*)?=\s*["']([^"']+)["']""", re.MULTILINE)


@dataclass(frozen=True)
class Installed:
    """The package on this machine.

    Attributes:
        version: as its own file states it.
        folder: where it is.
    """

    version: str
    folder: Path

    @property
    def licence(self) -> str:
        """Package, version and licence."""
        return f"ultralytics {self.version} ({LICENCE})"


def is_installed() -> bool:
    """Whether the package is installed, and of a version that this project can use."""
    with contextlib.suppress(MissingDependencyError):
        return bool(find_installed())
    return False


def find_installed() -> Installed:
    """Find the package and check that it is of a version that this project can use.

    Raises:
        MissingDependencyError: it is not installed, installed twice, or of another version.
    """
    file = _init_file()
    if file is None:
        raise MissingDependencyError(
            f"{PURPOSE} needs the Python package ultralytics, which is not installed. "
            f"Install it with: pip install 'slimdet[{EXTRA}]'"
        )
    _refuse_two_distributions()
    found = _VERSION.search(file.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise MissingDependencyError(f"{file} states no version; install {wanted()}")
    _refuse_version(found[1], file.parent)
    return Installed(found[1], file.parent)


def wanted() -> str:
    """Return which versions can be used, and how to install one."""
    return (
        f"ultralytics {'.'.join(map(str, LEAST))} or a later {TESTED[0]}.{TESTED[1]}, for example "
        f"with: pip install 'slimdet[{EXTRA}]'"
    )


def _init_file() -> Path | None:
    """Return the package's first file; None also for a folder of its name that is no package."""
    spec = importlib.util.find_spec("ultralytics")
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _refuse_two_distributions() -> None:
    found = []
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    if len(found) > 1:
        raise MissingDependencyError(
            f"{' and '.join(found)} are both installed and own the same files; remove both with "
            f"pip uninstall {' '.join(DISTRIBUTIONS)}, then install one of them again"
        )


def _refuse_version(version: str, folder: Path) -> None:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if numbers[:2] != TESTED or numbers < LEAST:
        raise MissingDependencyError(
            f"ultralytics {version} is installed in {folder}; slimdet uses parts of ultralytics "
            f"that change between versions, and needs {wanted()}"
        )
