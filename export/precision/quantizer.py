"""Base class of the quantisers: choose nodes, quantise, write and check the artifact."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import MADE_FOR_TENSORRT, Manifest, file_sha256, write_manifest
from export.checks.certificate import certify
from export.checks.qdq_lint import lint_qdq
from export.errors import ExportError, counted
from export.graph.edit import (
    HALF_PAIRS_OPSET,
    first_nodes,
    nodes_matching,
    opset_of,
    prediction_nodes,
    raise_opset,
    save_checked,
    tidy,
    with_constant_weights,
)
from export.optional import require
from export.precision.fp16 import check_finite, to_half
from export.precision.prepare import made_by

if TYPE_CHECKING:
    import onnx

Remainder = Literal["fp16", "fp32"]


@dataclass(frozen=True)
class Quantizer(ABC):
    """A float model, prepared and calibrated once, of which any subset of nodes can be quantised.

    Attributes:
        source: path of the float model.
        manifest: its sidecar.
        model: the prepared graph.
        nodes: the names that may be quantised, in graph order.
        kept: names of the weighted nodes that always stay float.
        remainder: the type of the features that are not quantised; geometry is always FP32.
        record: settings to write into the sidecar.
    """

    source: Path
    manifest: Manifest
    model: "onnx.ModelProto"
    nodes: tuple[str, ...]
    kept: tuple[str, ...]
    remainder: Remainder
    record: dict[str, Any]

    @property
    @abstractmethod
    def precision(self) -> str:
        """Name of the precision."""

    @abstractmethod
    def graph(self, nodes: Sequence[str]) -> "onnx.ModelProto":
        """Return a graph (`onnx.ModelProto`) with `nodes` quantised and all others FP32."""

    def write(
        self,
        folder: Path,
        nodes: Sequence[str],
        record: Mapping[str, object],
        canvas: NDArray[np.uint8] | None = None,
    ) -> Path:
        """Write `folder/model.onnx` with `nodes` quantised, and its sidecar.

        Args:
            folder: output folder, created if missing.
            nodes: nodes to quantise, a subset of `self.nodes`.
            record: further entries of the sidecar's `quantization`.
            canvas: a picture to check the outputs and profile the certificate's times on.

        Raises:
            ExportError: TensorRT would refuse the graph, or its data types contradict its
                precision.
        """
        path = folder / "model.onnx"
        graph = self.graph(nodes)
        if self.remainder == "fp16":
            raise_opset(graph, HALF_PAIRS_OPSET)
            graph = to_half(graph)
            tidy(graph)
        for_tensorrt = self.precision in MADE_FOR_TENSORRT
        problems = lint_qdq(graph) if for_tensorrt else []
        if problems:
            raise ExportError(f"{path}: not what TensorRT takes: {'; '.join(problems)}")
        save_checked(graph, path)
        filled = self.manifest.model_copy(
            update={
                "precision": self.precision,
                "artifact": path.name,
                "sha256": file_sha256(path),
                "opset": opset_of(graph),
                "parity": {},  # that of the float model does not apply
                "quantization": {
                    **self.record,
                    "remainder": self.remainder,
                    "nodes_quantized": len(nodes),
                    "nodes_kept_float": len(self.nodes) + len(self.kept) - len(nodes),
                    **record,
                },
                "made_by": {**made_by(self.manifest), **self.tools()},
            }
        )
        write_manifest(filled, path.with_suffix(".json"))
        certificate = certify(path, None if for_tensorrt else canvas)
        filled = filled.model_copy(update={"certificate": certificate})
        write_manifest(filled, path.with_suffix(".json"))
        if canvas is not None and self.remainder == "fp16":
            check_finite(path, [canvas])
        return path

    def tools(self) -> dict[str, str]:
        """Return the packages used besides onnx and ONNX Runtime, with their versions."""
        return {}


def copy_graph(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a copy of an `onnx.ModelProto`."""
    onnx = require("onnx", extra="train", purpose="Quantising a model")
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def choose_nodes(
    model: "onnx.ModelProto", keep_float: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the nodes to quantise and of the weighted nodes to keep float.

    The first Conv, the prediction layers and the decoding after them stay float.

    Raises:
        ExportError: a `keep_float` part matches nothing, or nothing is left to quantise.
    """
    candidates = with_constant_weights(model)
    protected = prediction_nodes(model) | first_nodes(model) | nodes_matching(model, keep_float)
    chosen = tuple(name for name in candidates if name not in protected)
    if not chosen:
        raise ExportError(
            f"nothing to quantise: every one of {counted(len(candidates), 'weighted node')} is the "
            "first, predicts, or matches keep_float"
        )
    return chosen, tuple(name for name in candidates if name in protected)
