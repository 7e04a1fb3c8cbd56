"""Check a graph against TensorRT's rules for explicit quantisation."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.graph.edit import HALF_PAIRS_OPSET, opset_of
from export.optional import require

if TYPE_CHECKING:
    import onnx
    from onnx import NodeProto

E4M3 = "float8_e4m3fn"
_SHOWN = 3  # names per problem


def lint_qdq(model: "onnx.ModelProto") -> list[str]:
    """Return, in words, what TensorRT would refuse in an `onnx.ModelProto`.

    TensorRT takes symmetric INT8 or FP8 of the form E4M3 (zero points 0, scales above 0), not both
    in one graph, no UINT8 and no INT32 behind DequantizeLinear, no quantised Softmax, each
    QuantizeLinear read by DequantizeLinear, and no operator sets that it does not know. FP8, and
    pairs in half precision, are of opset 19.
    """
    onnx = require("onnx", extra="train", purpose="Checking a quantised graph")
    graph = model.graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    stored |= {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    found: dict[str, list[str]] = {}

    def blame(problem: str, name: str) -> None:
        found.setdefault(problem, []).append(name)

    readers: dict[str, list[NodeProto]] = {}
    types: set[str] = set()
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            for problem in _parameters(node, stored):
                blame(problem, node.name or node.output[0])
            types |= {stored[name].dtype.name for name in node.input[1:] if name in stored}
        if node.op_type == "QuantizeLinear":
            if not all(r.op_type == "DequantizeLinear" for r in readers.get(node.output[0], [])):
                blame("QuantizeLinear that something but DequantizeLinear reads", node.name)
            if _op(makers.get(node.input[0])) == "Softmax":
                blame("quantised Softmax", node.input[0])
        if node.op_type == "Softmax" and _op(makers.get(node.input[0])) == "DequantizeLinear":
            blame("quantised Softmax", node.name)
    problems = [_sentence(problem, names) for problem, names in found.items()]
    counts = Counter(node.op_type for node in graph.node)
    weights = sum(
        node.op_type == "DequantizeLinear" and node.input[0] in stored for node in graph.node
    )
    pairs = counts["DequantizeLinear"] - weights
    if counts["QuantizeLinear"] != pairs:
        problems.append(
            f"{counts['QuantizeLinear']} QuantizeLinear against {pairs} DequantizeLinear "
            "of activations; expected as many"
        )
    if {"int8", E4M3} <= types:
        problems.append("INT8 and FP8 in one graph, where TensorRT takes one of them")
    late = sorted(types & {"float16", E4M3})
    if late and opset_of(model) < HALF_PAIRS_OPSET:
        problems.append(
            f"{' and '.join(late)} at QuantizeLinear or DequantizeLinear in opset "
            f"{opset_of(model)}; expected {HALF_PAIRS_OPSET} or later"
        )
    used = {node.domain for node in graph.node} | {""}
    unused = sorted(o.domain for o in model.opset_import if o.domain not in used)
    if unused:
        problems.append(f"operator sets that no node uses: {', '.join(unused)}")
    foreign = sorted({f"{n.domain}.{n.op_type}" for n in graph.node if n.domain})
    if foreign:
        problems.append(f"operators outside of ONNX: {', '.join(foreign)}")
    return problems


def _parameters(node: "onnx.NodeProto", stored: Mapping[str, NDArray[np.generic]]) -> list[str]:
    """Return the problems of the scale, zero point and stored data of a Q or DQ node."""
    problems = []
    scale = stored.get(node.input[1])
    if scale is None:
        problems.append("scale that is not stored in the file")
    elif not (np.isfinite(scale).all() and (scale.astype(np.float64) > 0).all()):
        problems.append("scale that is not above 0")
    if len(node.input) < 3 or not node.input[2]:
        if node.op_type == "QuantizeLinear":
            problems.append("QuantizeLinear without a zero point, which makes it UINT8")
        zero = None
    else:
        zero = stored.get(node.input[2])
        if zero is None:
            problems.append("zero point that is not stored in the file")
        elif np.any(zero.astype(np.float32) != 0):
            problems.append("zero point that is not 0")
    data = zero if zero is not None else stored.get(node.input[0])
    if data is not None and data.dtype == np.uint8:
        problems.append("UINT8, where TensorRT takes INT8 or FP8 alone")
    if data is not None and data.dtype.name.startswith("float8") and data.dtype.name != E4M3:
        problems.append(f"{data.dtype.name}, where TensorRT takes FP8 of the form {E4M3} alone")
    if data is not None and data.dtype == np.int32:
        problems.append("INT32 behind DequantizeLinear (a quantised bias)")
    return problems


def _op(node: "onnx.NodeProto | None") -> str | None:
    return None if node is None else str(node.op_type)


def _sentence(problem: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{problem}: {', '.join(names[:_SHOWN])}{more}"
