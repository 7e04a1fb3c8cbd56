"""Every backend under the name that sidecars state; the one place that lists them."""

from typing import TYPE_CHECKING

from export.backends.onnxruntime.backend import OnnxRuntimeBackend
from export.backends.tensorrt.backend import TensorRTBackend

if TYPE_CHECKING:
    from export.backends.interface import Backend

BACKENDS: "dict[str, Backend]" = {
    "onnxruntime": OnnxRuntimeBackend(),
    "tensorrt": TensorRTBackend(),
}


def device_choices() -> tuple[str, ...]:
    """Return the devices that a user may ask for, of all backends."""
    return tuple(dict.fromkeys(name for one in BACKENDS.values() for name in one.devices))
