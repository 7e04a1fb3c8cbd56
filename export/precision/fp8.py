"""FP8 for TensorRT on GPUs of SM 8.9 and later: E4M3 Q/DQ pairs that Model Optimizer places.

The pairs are at the inputs of weighted nodes, as in `int8-trt`; other features are FP16 and
geometry is FP32. ONNX Runtime on the CPU rounds to E4M3 exactly as the graph states and computes in
FP32, so it can measure accuracy but not speed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import file_sha256
from export.errors import ExportError
from export.graph.edit import PAIR, WEIGHTED, tidy
from export.precision.fp16 import check_half_range
from export.precision.model_optimizer import PACKAGE, fp8_graph, require_model_optimizer
from export.precision.prepare import prepare, read_float_manifest
from export.precision.quantizer import Quantizer, choose_nodes, copy_graph
from export.precision.ranges import activation_ranges

if TYPE_CHECKING:
    import onnx

NOTHING_FOR_FP8 = "nothing to quantise: FP8 kernels need more than 16 channels in and out"


@dataclass(frozen=True)
class Fp8Quantizer(Quantizer):
    """Removes Q/DQ pairs from a graph in which Model Optimizer has quantised all allowed nodes.

    Attributes:
        whole: graph with every pair, FP32 between the pairs.
        version: Model Optimizer's version.
    """

    whole: "onnx.ModelProto"
    version: str

    @property
    def precision(self) -> str:
        """Name of the precision."""
        return "fp8"

    def graph(self, nodes: Sequence[str]) -> "onnx.ModelProto":
        """Return a graph (`onnx.ModelProto`) with `nodes` quantised and all others FP32."""
        model = copy_graph(self.whole)
        take_out_pairs(model, keep=nodes)
        tidy(model)
        return model

    def tools(self) -> dict[str, str]:
        """Return Model Optimizer and its version."""
        return {PACKAGE: self.version}


def open_fp8_quantizer(
    onnx_path: Path,
    canvases: Sequence[NDArray[np.uint8]],
    folder: Path,
    *,
    keep_float: Sequence[str] = (),
    seed: int = 0,
    cache: Path | None = None,
) -> Fp8Quantizer:
    """Prepare the float model at `onnx_path` and let Model Optimizer calibrate and quantise it.

    The first Conv, the prediction layers and the decoding after them stay float.
    If FP8 kernels support none of the other layers, `nodes` of the quantiser is empty.

    Args:
        onnx_path: the float model, with its sidecar beside it.
        canvases: real letterboxed (H, W, 3) pictures of the input's size.
        folder: output folder; not the float model's own.
        keep_float: parts of names; nodes whose name or weights' names contain one stay float.
        seed: seed of the calibration sample; recorded only.
        cache: folder of earlier calibrations.

    Raises:
        DataError: no pictures, or of another size than the model takes.
        ExportError: the model is not float, a `keep_float` part matches nothing, nothing is left
            to quantise, or the FP16 remainder would overflow.
        MissingDependencyError: Model Optimizer, onnx or onnxruntime is not installed.
    """
    version = require_model_optimizer()
    manifest = read_float_manifest(onnx_path, folder)
    model = prepare(onnx_path)
    wanted, kept = choose_nodes(model, keep_float)
    ranges = activation_ranges(
        model, canvases, manifest.input, "minmax", symmetric=True, cache=cache
    )
    check_half_range(onnx_path, ranges)
    whole = fp8_graph(model, canvases, manifest.input, wanted)
    found = quantized_nodes(whole)
    nodes = tuple(name for name in wanted if name in found)
    record = {
        "flavour": "fp8",
        "method": "minmax",
        "scheme": "E4M3 QDQ, symmetric, weights per channel in float behind Q/DQ, inputs only",
        "images": len(canvases),
        "seed": seed,
        "weight_bits": 8,
        "float_sha256": file_sha256(onnx_path),
    }
    left = tuple(name for name in wanted if name not in found)
    return Fp8Quantizer(
        onnx_path, manifest, model, nodes, kept + left, "fp16", record, whole, version
    )


def quantize_fp8(
    onnx_path: Path,
    canvases: Sequence[NDArray[np.uint8]],
    folder: Path,
    keep_float: Sequence[str] = (),
    *,
    seed: int = 0,
) -> Path:
    """Write `folder/model.onnx` and its sidecar with all allowed nodes quantised.

    Raises:
        ExportError: FP8 kernels support none of the nodes, or as for `open_fp8_quantizer`.
    """
    quantizer = open_fp8_quantizer(onnx_path, canvases, folder, keep_float=keep_float, seed=seed)
    if not quantizer.nodes:
        raise ExportError(f"{onnx_path}: {NOTHING_FOR_FP8}; keep fp16")
    return quantizer.write(folder, quantizer.nodes, {}, canvases[0])


def quantized_nodes(model: "onnx.ModelProto") -> frozenset[str]:
    """Return the names of the weighted nodes whose data and weights both come from a Q/DQ pair."""
    dequantised = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return frozenset(
        node.name
        for node in model.graph.node
        if node.op_type in WEIGHTED and all(name in dequantised for name in node.input[:2])
    )


def take_out_pairs(model: "onnx.ModelProto", keep: Sequence[str]) -> None:
    """Remove the Q/DQ pairs of all nodes except those in `keep`, in place."""
    kept, graph = set(keep), model.graph
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.name in kept or node.op_type in PAIR:
            continue
        for slot, name in enumerate(node.input):
            while name in makers and makers[name].op_type in PAIR:
                name = makers[name].input[0]
            node.input[slot] = name
    read = {value.name for value in graph.output}
    alive = []
    for node in reversed(graph.node):
        if node.op_type not in PAIR or node.output[0] in read:
            alive.append(node)
            read.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(alive))
    stored = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(stored)
