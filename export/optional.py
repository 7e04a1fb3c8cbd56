"""Import an optional package, or raise an error with the pip command."""

import importlib
from types import ModuleType

from export.errors import MissingDependencyError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return `module`.

    Raises:
        MissingDependencyError: naming the purpose and the pip command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # it is installed, and something inside it is broken: show that instead
        raise MissingDependencyError(
            f"{purpose} needs the Python package {module}, which is not installed. "
            f"Install it with: pip install 'slimdet[{extra}]'"
        ) from None
