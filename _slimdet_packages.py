"""Make sure that slimdet's packages are found, and not the user's own modules of those names.

Python looks for modules in the current folder first when it is started with `-m`, and in the
script's folder when it runs a script: an `export.py` there hides the package `export`. This module
lies beside the packages, since it must be found when one of them is not.
"""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MISSING_PACKAGE = 4  # the exit code of `export.errors.MissingDependencyError`


def require_own(*names: str) -> None:
    """Refuse to go on where another module would be imported under the name of a package.

    Nothing is imported to find out. While `python -m` still looks for the module that it is to run,
    the process ends with exit code 4 and one sentence; otherwise that sentence is an exception's.

    Args:
        names: packages of slimdet that the caller is going to import.

    Raises:
        ImportError: naming what hides which package, and the command that works nevertheless.
    """
    for name in names:
        hiding = _hiding(name)
        if hiding is None:
            continue
        message = (
            f"{hiding} hides slimdet's package {name!r}, because Python looks there first: use the "
            "command `slimdet`, which does not look there, or rename that file or folder"
        )
        if sys.argv[:1] == ["-m"]:
            sys.stderr.write(f"error: {message}\n")
            raise SystemExit(MISSING_PACKAGE)
        raise ImportError(message, name=name)


def leave_current_folder() -> None:
    """Take the current folder out of the path of `python -m slimdet`: the command has it not.

    A user's `yaml.py` or `torch.py` there would be imported in place of the library. The folder
    stays where it is the one that slimdet itself lies in.
    """
    try:
        current = Path.cwd()
    except OSError:  # it was deleted; the command tells
        return
    if sys.path and Path(sys.path[0] or ".").resolve() == current != HERE:
        del sys.path[0]


def _hiding(name: str) -> str | None:
    """Return what would be imported as `name`, or has been; None where that is our package."""
    try:
        found = importlib.util.find_spec(name)
    except ValueError:  # imported already, by something that leaves no spec
        found = None
    if found is None:
        return "an incomplete installation"
    places = [Path(place).resolve() for place in found.submodule_search_locations or ()]
    if HERE / name in places:
        return None
    return str(places[0] if places else found.origin)
