"""Certify the data types in which an artifact computes, from its graph and a profile."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import Certificate, Manifest, read_manifest
from export.backends.onnxruntime.providers import (
    LOG_NOTHING,
    open_session,
    provider_settings,
    run_session,
)
from export.detections import OUTPUTS, checked_outputs
from export.errors import ExportError
from export.graph.edit import WEIGHTED, decoding_nodes, read_graph
from export.optional import require
from export.pictures.images import Images, to_input

if TYPE_CHECKING:
    import onnx

_PROFILED_CALLS = 5
_WANTED = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int8-trt": "int8", "fp8": "fp8"}
_QUANTISED = frozenset({"int8", "fp8"})
_EIGHT_BITS = frozenset({"int8", "uint8"})
_INTEGER_KERNELS = ("QLinear", "ConvInteger", "MatMulInteger", "QGemm", "QConv")


def certify(path: Path, canvas: NDArray[np.uint8] | None = None) -> Certificate:
    """Return the data types in which the ONNX file at `path` computes.

    Args:
        path: artifact with its sidecar beside it.
        canvas: a letterboxed (H, W, 3) picture to profile ONNX Runtime's CPU kernels on; None
            leaves time out.

    Raises:
        ExportError: the graph contradicts the precision that its sidecar names, or it gives no
            boxes, scores and labels.
    """
    manifest = read_manifest(path.with_suffix(".json"))
    nodes = node_types(read_graph(path))
    time: dict[str, float] = {}
    runtime = None
    if canvas is not None:
        time, runtime = _profile(path, to_input([canvas], manifest.input), manifest)
    remainder = manifest.quantization.get("remainder")
    problem = contradiction(manifest.precision, nodes, time, remainder)
    if problem is not None:
        raise ExportError(
            f"{path}: is named {manifest.precision}, and {problem}; make the artifact again"
        )
    return Certificate(nodes=nodes, time=time, measured_on=runtime)


def node_types(model: "onnx.ModelProto") -> dict[str, int]:
    """Count the weighted nodes that compute features or predictions, by data type.

    A node counts as int8 or fp8 when both its data and its weights come out of DequantizeLinear,
    which is what every runtime turns into a kernel of that type.
    """
    onnx = require("onnx", extra="train", purpose="Reading a graph's precision")
    kinds = onnx.TensorProto
    floats = {kinds.FLOAT: "fp32", kinds.FLOAT16: "fp16"}
    eight_bits = {kinds.INT8: "int8", kinds.UINT8: "int8", kinds.FLOAT8E4M3FN: "fp8"}
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    decoding = decoding_nodes(model)
    found: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or node.name in decoding:
            continue
        inputs = node.input[:2]
        pairs = [makers[name] for name in inputs if name in makers and _dequantizes(makers[name])]
        if len(pairs) == len(inputs):
            # type of the zero point, or of the stored data if there is none
            zeros = [stored.get((*pair.input, pair.input[0])[2]) for pair in pairs]
            named = {eight_bits.get(zero, "other") for zero in zeros}
            found[named.pop() if len(named) == 1 else "other"] += 1
            continue
        weights = [stored[name] for name in inputs if name in stored]
        # For data stored in 8 bits and computed in more, the scale has the compute type.
        weights = weights or [stored[pair.input[1]] for pair in pairs if pair.input[1] in stored]
        if weights:
            found[floats.get(weights[0], "other")] += 1
    return dict(sorted(found.items()))


def contradiction(
    precision: str, nodes: dict[str, int], time: dict[str, float], remainder: str | None = None
) -> str | None:
    """Return, in words, how an artifact contradicts its precision; None if it does not.

    Args:
        precision: its name.
        nodes: data type -> how many weighted nodes compute in it.
        time: data type -> share of the measured time; empty where not measured.
        remainder: the float type that its sidecar promises beside the quantised one, if any.
    """
    wanted = _WANTED.get(precision)
    if wanted is None:
        return f"there is no such precision (known: {', '.join(_WANTED)})"
    counted = ", ".join(f"{count} in {kind}" for kind, count in nodes.items()) or "none at all"
    if wanted not in nodes:
        return f"no Conv, Gemm or MatMul of the graph computes in {wanted} ({counted})"
    if wanted not in _QUANTISED and len(nodes) > 1:
        return f"not every Conv, Gemm and MatMul of the graph computes in {wanted} ({counted})"
    if wanted in _QUANTISED and (mixed := nodes.keys() & (_QUANTISED - {wanted} | {"other"})):
        return f"some of the graph computes in {', '.join(sorted(mixed))} ({counted})"
    if remainder is not None and not nodes.keys() <= {wanted, remainder}:
        return f"what is not {wanted} is not all {remainder} ({counted})"
    if precision == "int8" and time and not time.get("int8"):
        return "ONNX Runtime ran no integer kernel for its quantised nodes"
    return None


def _dequantizes(node: "onnx.NodeProto") -> bool:
    return str(node.op_type) == "DequantizeLinear"


def _profile(path: Path, images: Images, manifest: Manifest) -> tuple[dict[str, float], str]:
    """Return the share of time per data type over some calls, and the runtime's name."""
    runtime = require("onnxruntime", extra="onnxruntime", purpose="Profiling an artifact")
    with tempfile.TemporaryDirectory(prefix="profile") as scratch:
        options = runtime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        options.log_severity_level = LOG_NOTHING
        options.intra_op_num_threads = 1  # idle threads would distort the shares
        content, providers = path.read_bytes(), provider_settings("cpu", path.parent, None)
        session = open_session(runtime, path, "cpu", content, options, providers)
        for _ in range(_PROFILED_CALLS):
            found = run_session(path, session, OUTPUTS, {manifest.input.name: images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    checked_outputs(path, dict(zip(OUTPUTS, found, strict=True)), len(images), manifest)
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[_kernel_type(event["args"])] += event["dur"]
    total = sum(spent.values())
    shares = {kind: round(value / total, 4) for kind, value in sorted(spent.items()) if value}
    return shares, f"onnxruntime {runtime.__version__} CPU, 1 thread"


def _kernel_type(arguments: dict[str, Any]) -> str:
    """Name the data type of one profiled kernel."""
    operator = str(arguments.get("op_name", ""))
    if operator in {"QuantizeLinear", "DequantizeLinear", "Cast"}:
        return "conversion"
    found = [kind for shape in arguments.get("input_type_shape", ()) for kind in shape]
    if operator.startswith(_INTEGER_KERNELS) or (found and found[0] in _EIGHT_BITS):
        return "int8"
    for kind, name in (("float16", "fp16"), ("float", "fp32")):
        if kind in found:
            return name
    return "index"  # shapes, labels, masks
