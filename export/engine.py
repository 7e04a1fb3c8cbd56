"""One contract for everything that turns pictures into candidate boxes."""

from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from typing_extensions import Self

from export.artifact.manifest import Manifest, read_manifest
from export.backends import OnnxRuntimeConfig, TensorRTConfig
from export.backends.onnxruntime.engine import PRECISIONS, Precision
from export.backends.onnxruntime.providers import Device
from export.detections import Candidates
from export.errors import ExportError


class Engine(Protocol):
    """A loaded model: torch, ONNX Runtime or TensorRT. Loads on enter, frees on exit."""

    @property
    def manifest(self) -> Manifest:
        """Input size, classes and NMS settings of the artifact."""

    def candidates(self, images: NDArray[np.float32]) -> Candidates:
        """Boxes for what `to_input` makes of pictures; returns once they are on the host."""

    def __enter__(self) -> Self:
        """Load the model."""

    def __exit__(self, *_: object) -> None:
        """Free it."""


def open_engine(
    path: Path, threads: int | None = None, device: Device = "cpu", *, cuda_graph: bool = False
) -> Engine:
    """Return the engine that the artifact's sidecar asks for; it loads on enter.

    Args:
        path: of the artifact; its sidecar has the same name with `.json`.
        threads: of a CPU engine; None takes the physical cores this process may use.
        device: that ONNX Runtime runs on; a TensorRT engine runs on its GPU.
        cuda_graph: whether ONNX Runtime replays a CUDA graph; a TensorRT engine does where it can.

    Raises:
        ExportError: the artifact or its sidecar is missing or broken, or no backend here opens it.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such model file")
    manifest = read_manifest(path.with_suffix(".json"))
    if manifest.backend == "onnxruntime" and manifest.precision in PRECISIONS:
        precision = cast(Precision, manifest.precision)
        config = OnnxRuntimeConfig(
            device=device, threads=threads, precision=precision, cuda_graph=cuda_graph
        )
        return config.open(path)
    if manifest.backend == "tensorrt" and manifest.engine is not None:
        try:
            settings = TensorRTConfig.model_validate({"precision": manifest.precision})
        except ValidationError:
            raise ExportError(f"{path}: TensorRT has no precision {manifest.precision}") from None
        return settings.open(path)
    raise ExportError(
        f"{path}: made for {manifest.backend} {manifest.precision}; "
        f"this version opens onnxruntime {', '.join(PRECISIONS)}"
    )
