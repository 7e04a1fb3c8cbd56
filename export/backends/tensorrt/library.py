"""Import TensorRT with a clear error, and collect its log."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

from export.artifact.machine import numbers
from export.errors import MissingDependencyError
from export.optional import require

if TYPE_CHECKING:
    import tensorrt

OLDEST = (10, 3)  # what JetPack 6 ships
STRONG_TYPING_PROVEN = (10, 12)  # from here on according to the vendor's migration guide


def load_tensorrt(purpose: str) -> ModuleType:
    """Return the module `tensorrt`.

    Raises:
        MissingDependencyError: it is not installed, is too old, or its libraries are missing.
    """
    try:
        trt = require("tensorrt", extra="tensorrt", purpose=purpose)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"{error} (on a Jetson it is part of JetPack: make the virtual environment with "
            "--system-site-packages)"
        ) from None
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"{purpose} needs TensorRT, whose Python package is installed and cannot be loaded "
            f"({error}); install its libraries in the same version"
        ) from None
    if numbers(trt.__version__) < OLDEST:
        raise MissingDependencyError(
            f"{purpose} needs TensorRT 10.3 or newer; {trt.__version__} is installed"
        )
    return trt


def listen(trt: Any) -> "tensorrt.ILogger":
    """Return a logger that collects TensorRT's warnings and errors and prints nothing.

    Its `errors` and `warnings` are lists of lines. It must outlive all objects created with it.
    """

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: object, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(message)

    return Listener()


def layer_clock(trt: Any, spent: dict[str, float]) -> "tensorrt.IProfiler":
    """Return a profiler that adds the milliseconds of each reported layer to `spent`."""

    class Clock(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            spent[layer_name] = spent.get(layer_name, 0.0) + ms

    return Clock()


def load_plugins(trt: ModuleType, logger: "tensorrt.ILogger") -> None:
    """Register the plugins that come with TensorRT; RoiAlign is one."""
    trt.init_libnvinfer_plugins(logger, "")


def last_errors(listener: Any) -> str:
    """Join the last errors of `listen`'s logger, for a message."""
    return "; ".join(listener.errors[-3:]) or "TensorRT gave no reason"
