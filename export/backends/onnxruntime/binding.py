"""An ONNX Runtime session whose inputs and outputs stay on its device, at fixed addresses.

Not yet run on a GPU. The tests make the same calls with the CPU as the device, so copies between
two memories and the CUDA graph are not covered.
"""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import Manifest
from export.backends.onnxruntime.devices import PROVIDERS, Device
from export.errors import ExportError
from export.pictures.images import Images

if TYPE_CHECKING:
    import onnxruntime

_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class Binding:
    """Input and outputs of one batch size, allocated once on the session's device."""

    def __init__(
        self,
        runtime: ModuleType,
        path: Path,
        session: "onnxruntime.InferenceSession",
        device: Device,
        images: Images,
    ) -> None:
        """Allocate memory for batches like `images`, which is run once to find the sizes.

        Raises:
            ExportError: ONNX Runtime cannot run it.
        """
        memory = "cpu" if device == "cpu" else "cuda"
        self._path, self._session = path, session
        self._names = [output.name for output in session.get_outputs()]
        types = [_NUMPY[output.type] for output in session.get_outputs()]
        name = session.get_inputs()[0].name
        self._input = runtime.OrtValue.ortvalue_from_shape_and_type(
            images.shape, images.dtype.type, memory, 0
        )
        self._input.update_inplace(images)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(name, self._input)
        for output in self._names:
            self._binding.bind_output(output, memory, 0)
        options = runtime.RunOptions()
        if device != "cpu":  # this pass must not become the CUDA graph: its outputs move
            options.add_run_config_entry("gpu_graph_id", "-1")
        self._run(options)
        shapes = [value.shape() for value in self._binding.get_outputs()]
        self._binding.clear_binding_outputs()
        self._outputs = [
            runtime.OrtValue.ortvalue_from_shape_and_type(shape, kind, memory, 0)
            for shape, kind in zip(shapes, types, strict=True)
        ]
        for output, value in zip(self._names, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(output, value)

    @property
    def addresses(self) -> tuple[int, ...]:
        """Device addresses of the input and of each output."""
        return tuple(value.data_ptr() for value in (self._input, *self._outputs))

    def upload(self, images: Images) -> None:
        """Copy a batch to the device; returns once it is there."""
        self._input.update_inplace(np.ascontiguousarray(images))
        self._binding.synchronize_inputs()

    def run(self) -> None:
        """Run one pass on the uploaded batch; outputs stay on the device.

        Raises:
            ExportError: ONNX Runtime failed.
        """
        self._run(None)

    def synchronize(self) -> None:
        """Wait until the outputs are complete."""
        self._binding.synchronize_outputs()

    def download(self) -> dict[str, NDArray[np.generic]]:
        """Return copies of the outputs on the host, by name."""
        self.synchronize()
        found = self._binding.copy_outputs_to_cpu()
        return {name: np.array(one) for name, one in zip(self._names, found, strict=True)}

    def _run(self, options: "onnxruntime.RunOptions | None") -> None:
        try:
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:  # ONNX Runtime's exception classes share no base but this
            raise ExportError(f"{self._path}: ONNX Runtime failed to run it: {error}") from error


def require_graph(
    path: Path, manifest: Manifest, device: Device, placement: dict[str, int]
) -> None:
    """Refuse a CUDA graph where ONNX Runtime could not record the whole pass as one.

    Args:
        path: artifact, for messages.
        manifest: its sidecar.
        device: device of the session.
        placement: provider -> kernels of one pass.

    Raises:
        ExportError: the message states the reason.
    """
    why = None
    elsewhere = {name: n for name, n in placement.items() if name != PROVIDERS["cuda"]}
    if device != "cuda":
        why = f"it is ONNX Runtime's CUDA provider that records one, and the device is {device}"
    elif manifest.input.dynamic_batch:
        why = "its batch is open; export it with a fixed one"
    elif manifest.nms.mode == "graph":
        why = "the NMS in its graph waits for the CPU; export it with nms: host or matrix"
    elif elsewhere:
        listed = ", ".join(f"{count} on {name}" for name, count in elsewhere.items())
        why = f"not all of its kernels run on the GPU ({listed})"
    if why is not None:
        raise ExportError(f"{path}: a CUDA graph was asked for, and {why}")
