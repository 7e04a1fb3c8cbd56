"""Read and tidy an ONNX graph; `model` is an `onnx.ModelProto` throughout."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from export.atomic import write_bytes
from export.errors import ExportError
from export.optional import require

if TYPE_CHECKING:
    import onnx

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_PREDICTING = frozenset({"Conv", "Gemm"})  # a MatMul there decodes: the integral of box bins
PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
HALF_PAIRS_OPSET = 19  # the first whose QuantizeLinear takes half precision, and gives FP8
# Operators between two weighted nodes that compute features and no geometry.
_FEATURE_OPS = WEIGHTED | {
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Clip",
    "Concat",
    "ConvTranspose",
    "Div",
    "Elu",
    "Flatten",
    "Gelu",
    "GlobalAveragePool",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LeakyRelu",
    "MaxPool",
    "Mul",
    "PRelu",
    "Pad",
    "QuantizeLinear",
    "DequantizeLinear",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "Split",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
}


def read_graph(path: Path) -> "onnx.ModelProto":
    """Return the ONNX model at `path` with its weights, after ONNX's own checker has passed it.

    Raises:
        ExportError: it cannot be read, is no whole graph, or keeps weights outside of its folder.
        MissingDependencyError: onnx is not installed.
    """
    package = require("onnx", extra="train", purpose=f"Reading {path.name}")
    try:
        model = package.load(str(path))
        package.checker.check_model(model)
    except Exception as error:  # protobuf's, the checker's and the system's share no base but this
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"{path}: cannot be read as an ONNX graph ({said[0]})") from None
    known = package.defs.onnx_opset_version()
    if opset_of(model) > known:
        raise ExportError(
            f"{path}: is of operator set {opset_of(model)}, and the onnx package here knows {known}"
            "; install a newer onnx"
        )
    if not model.graph.output:
        raise ExportError(f"{path}: the graph gives no output; export the model again")
    return cast("onnx.ModelProto", model)


def prediction_nodes(model: "onnx.ModelProto") -> frozenset[str]:
    """Return the names of the prediction layers and of all weighted nodes after them.

    A Conv or Gemm is a prediction layer if a graph output can be reached from it without passing
    another one. The nodes between it and the outputs decode boxes and are as sensitive.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    found, seen = set(), set()
    pending = [output.name for output in model.graph.output]
    while pending:
        node = makers.get(pending.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in WEIGHTED:
            found.add(node.name)
        if node.op_type not in _PREDICTING:
            pending.extend(node.input)
    return frozenset(found)


def prediction_outputs(model: "onnx.ModelProto") -> list[str]:
    """Return the names of the output tensors of the prediction layers."""
    predicting = prediction_nodes(model)
    return [
        node.output[0]
        for node in model.graph.node
        if node.name in predicting and node.op_type in _PREDICTING
    ]


def after_topk(model: "onnx.ModelProto") -> dict[str, str]:
    """Return each node behind a TopK, by name, and each of their tensors: name -> TopK's name."""
    behind: dict[str, str] = {}
    for node in model.graph.node:  # producers come first in a valid graph
        source = next((behind[name] for name in node.input if name in behind), None)
        if source is None and node.op_type == "TopK":
            source = node.name
        if source is not None:
            behind |= dict.fromkeys((node.name, *node.output), source)
    return behind


def decoding_nodes(model: "onnx.ModelProto") -> frozenset[str]:
    """Return the names of MatMuls after the predictions, which decode bins or compare boxes."""
    after = prediction_nodes(model)
    return frozenset(
        node.name for node in model.graph.node if node.name in after and node.op_type == "MatMul"
    )


def feature_nodes(model: "onnx.ModelProto") -> frozenset[int]:
    """Return the indices of the nodes that compute features, up to and with the predictions.

    These are the Convs, Gemms and MatMuls with stored weights, and what lies between two of them
    without geometry (TopK, RoiAlign, Exp, comparisons and the like). The normalisation before the
    first and the decoding after the last are not included; the Q/DQ pairs at their inputs are,
    those of weights too.
    """
    nodes = list(model.graph.node)
    stored = stored_tensors(model)
    decoding = decoding_nodes(model)
    weighted = {
        index
        for index, node in enumerate(nodes)
        if node.op_type in WEIGHTED
        and any(name in stored for name in node.input)
        and node.name not in decoding
    }
    makers = {output: index for index, node in enumerate(nodes) for output in node.output}
    above = [{makers[name] for name in node.input if name in makers} for node in nodes]
    fed: set[int] = set()  # by a weighted node, through feature operators alone
    for index, node in enumerate(nodes):  # producers come first in a valid graph
        if node.op_type in _FEATURE_OPS and above[index] & (fed | weighted):
            fed.add(index)
    feeding: set[int] = set()  # a weighted node
    for index in range(len(nodes) - 1, -1, -1):
        if index in weighted or (index in feeding and nodes[index].op_type in _FEATURE_OPS):
            feeding |= above[index]
    chosen = weighted | {i for i in fed & feeding if nodes[i].op_type in _FEATURE_OPS}
    for index in range(len(nodes) - 1, -1, -1):
        if index in chosen:
            chosen |= {maker for maker in above[index] if nodes[maker].op_type in PAIR}
    return frozenset(chosen)


def stored_tensors(model: "onnx.ModelProto") -> frozenset[str]:
    """Return the names of the stored tensors and of their dequantised copies."""
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:  # producers come first in a valid graph
        if node.op_type in PAIR and node.input[0] in stored:
            stored.update(node.output)
    return frozenset(stored)


def raise_opset(model: "onnx.ModelProto", version: int) -> None:
    """Raise the graph's opset, in place, if it is lower.

    Valid for 18 to 19 only, which adds types and attributes with compatible defaults.
    """
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version < version:
            opset.version = version
    model.ir_version = max(model.ir_version, 9)


def opset_of(model: "onnx.ModelProto") -> int:
    """Return the graph's opset."""
    return max(
        int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx")
    )


def first_nodes(model: "onnx.ModelProto") -> frozenset[str]:
    """Return the names of the first Convs after the input."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found, seen = set(), set()
    pending = [value.name for value in model.graph.input]
    while pending:
        for node in readers.get(pending.pop(), ()):
            if node.name in seen:
                continue
            seen.add(node.name)
            if node.op_type == "Conv":
                found.add(node.name)
            else:
                pending.extend(node.output)
    return frozenset(found)


def nodes_matching(model: "onnx.ModelProto", parts: Iterable[str]) -> frozenset[str]:
    """Return the names of weighted nodes whose name, or a weight's, contains one of `parts`.

    Raises:
        ExportError: a part matches nothing.
    """
    matched: set[str] = set()
    for part in parts:
        hits = {
            node.name
            for node in model.graph.node
            if node.op_type in WEIGHTED
            and any(part in name for name in (node.name, *node.input[1:]))
        }
        if not hits:
            raise ExportError(
                f"keep_float: no Conv, Gemm or MatMul of the graph has {part!r} in its name "
                "or in its weights' names"
            )
        matched |= hits
    return frozenset(matched)


def with_constant_weights(model: "onnx.ModelProto") -> tuple[str, ...]:
    """Return the names of Conv, Gemm and MatMul nodes with stored weights, in graph order."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type in WEIGHTED and any(name in stored for name in node.input)
    )


def tidy(model: "onnx.ModelProto") -> None:
    """Remove unused operator sets, and metadata about how the graph was made."""
    for node in _all_nodes(model.graph):
        node.domain = "" if node.domain == "ai.onnx" else node.domain  # two names of one set
    used = {node.domain for node in _all_nodes(model.graph)}
    for function in model.functions:
        used |= {node.domain for node in function.node}
    used |= {""}
    # merged and optimised graphs may list a set twice
    kept = {opset.domain: opset for opset in model.opset_import if opset.domain in used}
    imports = list(kept.values())
    del model.opset_import[:]
    model.opset_import.extend(imports)
    for element in (model, model.graph, *_all_nodes(model.graph), *model.functions):
        element.ClearField("doc_string")
        element.ClearField("metadata_props")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.ClearField("metadata_props")


def save_checked(model: "onnx.ModelProto", path: Path) -> None:
    """Check the model and write it as one file, whole or not at all.

    Raises:
        ExportError: the graph breaks ONNX's rules.
    """
    onnx = require("onnx", extra="train", purpose="Writing an ONNX file")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # checker and shape inference raise unrelated classes
        raise ExportError(f"{path}: the graph is not valid ONNX: {error}") from error
    write_bytes(model.SerializeToString(deterministic=True), path)


def _all_nodes(graph: "onnx.GraphProto") -> list["onnx.NodeProto"]:
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                nodes.extend(_all_nodes(inner))
    return nodes
