"""The ONNX Runtime backend: its entry in `export.backends.BACKENDS`.

Importing this loads nothing heavy, since the commands' help lists what backends offer.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from export.backends.onnxruntime.devices import PROVIDERS
from export.errors import ExportError, counted

if TYPE_CHECKING:
    from export.artifact.manifest import Manifest
    from export.backends.interface import EngineSettings, Triton
    from export.backends.onnxruntime.engine import OnnxRuntimeEngine

# Precisions of ONNX files that another builder reads; every machine runs the others.
_BUILDERS = {"int8-trt": "TensorRT's builder", "fp8": "TensorRT's builder, SM 8.9 and later"}


class OnnxRuntimeBackend:
    """Runs ONNX files as they are, on the CPU or through a GPU provider."""

    devices = tuple(map(str, PROVIDERS))
    graphs: Mapping[str, str] = {"fp16": "fp16", "int8": "int8"}
    runs_graphs = True
    packages = "onnxruntime"
    session = Path(__file__).with_name("session.py")

    def requirements(self) -> Mapping[str, tuple[str, ...]]:
        """Return ONNX Runtime for CPUs and for GPUs, in the version used here."""
        from export.optional import require

        runtime = require("onnxruntime", extra="onnxruntime", purpose="Naming its version")
        version = runtime.__version__
        return {
            "ONNX Runtime on a CPU": (f"onnxruntime=={version}",),
            "ONNX Runtime on an NVIDIA GPU": (f"onnxruntime-gpu=={version}",),
        }

    def open(self, path: Path, settings: "EngineSettings") -> "OnnxRuntimeEngine":
        """Return the engine of the ONNX file at `path`; it loads on enter.

        Raises:
            ExportError: the sidecar states a precision that is not known, or there is no such
                device.
        """
        from pydantic import ValidationError

        from export.artifact.manifest import read_manifest
        from export.backends.onnxruntime.engine import OnnxRuntimeEngine
        from export.backends.onnxruntime.settings import PRECISIONS, OnnxRuntimeConfig

        precision = read_manifest(path.with_suffix(".json")).precision
        if precision not in PRECISIONS:
            raise ExportError(
                f"{path}: its sidecar says {precision}; ONNX Runtime opens {', '.join(PRECISIONS)}"
            )
        try:
            config = OnnxRuntimeConfig.model_validate(
                {**settings.model_dump(), "precision": precision}
            )
        except ValidationError:
            raise ExportError(
                f"{path}: device {settings.device} was asked for; ONNX Runtime runs on "
                f"{', '.join(self.devices)}"
            ) from None
        return OnnxRuntimeEngine(path, config)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add nothing: how the graph is made is all there is to choose."""

    def check(self, model: Path, settings: Mapping[str, object]) -> None:
        """Refuse nothing: every machine can make a graph."""

    def build(self, graph: Path, folder: Path, settings: Mapping[str, object]) -> Path:
        """Return the graph itself, which is what ONNX Runtime runs."""
        del folder, settings
        return graph

    def summary(self, path: Path) -> str:
        """Describe a graph by its sidecar."""
        from export.artifact.manifest import read_manifest

        manifest = read_manifest(path.with_suffix(".json"))
        record = manifest.quantization
        if "nodes_quantized" not in record:
            checked = "compared with torch" if manifest.precision == "fp32" else "checked"
            return f"{path}: features in {manifest.precision.upper()}, {checked} on the pictures"
        return (
            f"{path}: {counted(record['nodes_quantized'], 'node')} in INT8, "
            f"{record['nodes_kept_float']} kept float, {record['weight_bits']}-bit weights, "
            f"calibrated on {counted(record['images'], 'picture')}"
        )

    def made_for(self, manifest: "Manifest") -> str:
        """Name the machines that run an artifact, for a bundle's README."""
        return _BUILDERS.get(manifest.precision, "any machine")

    def triton(self, manifest: "Manifest") -> "Triton":
        """Return how Triton runs an ONNX file."""
        from export.backends.interface import Triton

        # ONNX Runtime's full optimiser breaks FP8 graphs; -1 is the basic one
        basic = ("optimization { graph { level: -1 } }",) if manifest.precision == "fp8" else ()
        return Triton("onnxruntime", "model.onnx", basic)

    def script(self, files: Mapping[str, "Manifest"]) -> list[str]:
        """Return nothing: an ONNX file needs no building on the device."""
        del files
        return []
