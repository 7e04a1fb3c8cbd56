"""Cast an ONNX graph to FP16: features in half precision, box geometry in single.

The existing converters (onnxconverter-common, ONNX Runtime's transformers.float16) also round
tensors between nodes that stay in float, which shifts boxes by half a pixel at 640 pixels. This
cast applies only to nodes that compute features.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import file_sha256, write_manifest
from export.checks.certificate import certify
from export.engine import open_engine
from export.errors import DataError, ExportError
from export.graph.edit import PAIR, feature_nodes, save_checked, tidy
from export.optional import require
from export.pictures.images import to_input
from export.precision.prepare import made_by, prepare, read_float_manifest
from export.precision.ranges import Ranges, activation_ranges

if TYPE_CHECKING:
    import onnx

LARGEST = 65504.0  # of half precision
# Inputs that ONNX requires to be float32: region and scales.
_ALWAYS_FLOAT = {"Resize": (1, 2)}


def cast_half(onnx_path: Path, canvases: Sequence[NDArray[np.uint8]], folder: Path) -> Path:
    """Write `folder/model.onnx` and its sidecar: features in FP16, inputs and outputs in FP32.

    Normalisation, box decoding, exponentials, anchors, RoIAlign, TopK and NMS stay FP32. On
    the given pictures no activation may exceed the range of half precision, and all outputs must be
    finite.

    Args:
        onnx_path: the float model, with its sidecar beside it.
        canvases: real letterboxed (H, W, 3) pictures of the input's size.
        folder: output folder, created if missing; not the float model's own.

    Raises:
        DataError: no pictures.
        ExportError: the model is not float, or overflows in half precision.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    manifest = read_float_manifest(onnx_path, folder)
    if not canvases:
        raise DataError("fp16: expected real pictures to check the activations on, got none")
    model = prepare(onnx_path)
    check_half_range(onnx_path, activation_ranges(model, canvases, manifest.input, "minmax"))
    half = to_half(model)
    tidy(half)
    path = folder / "model.onnx"
    save_checked(half, path)
    filled = manifest.model_copy(
        update={
            "precision": "fp16",
            "artifact": path.name,
            "sha256": file_sha256(path),
            "parity": {},  # that of the float model does not apply
            "made_by": made_by(manifest),
        }
    )
    write_manifest(filled, path.with_suffix(".json"))
    certified = certify(path, canvases[0])
    write_manifest(filled.model_copy(update={"certificate": certified}), path.with_suffix(".json"))
    check_finite(path, canvases)
    return path


def to_half(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a copy of `model` whose feature nodes compute in FP16, with casts at the border.

    Q/DQ pairs among them use FP16, scales included, which needs opset 19: TensorRT requires the
    scale to have the type of the tensor.
    """
    onnx = require("onnx", extra="train", purpose="Casting a model to FP16")
    helper, half, single = onnx.helper, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    cast = onnx.ModelProto()
    cast.CopyFrom(model)
    floats = _float_tensors(onnx, cast)
    stored = {tensor.name: tensor for tensor in cast.graph.initializer}
    scales = {node.input[1] for node in cast.graph.node if node.op_type in PAIR}
    chosen = feature_nodes(cast)
    nodes = list(cast.graph.node)
    outputs = {value.name for value in cast.graph.output}
    wanted = outputs.union(
        *(_float_inputs(node, floats, index in chosen)[1] for index, node in enumerate(nodes))
    )
    ready: dict[str, str] = {}  # float tensor -> its name in half precision
    rebuilt, halved = [], []
    for index, node in enumerate(nodes):
        if index not in chosen:
            rebuilt.append(node)
            continue
        inputs = list(node.input)
        for slot in _float_inputs(node, floats, True)[0]:
            name = inputs[slot]
            if name not in ready:
                ready[name] = f"{name}_half"
                if name in stored:
                    change = _half_scale if name in scales else _half_tensor
                    halved.append(change(onnx, stored[name], ready[name]))
                else:
                    rebuilt.append(helper.make_node("Cast", [name], [ready[name]], to=half))
            inputs[slot] = ready[name]
        del node.input[:]
        node.input.extend(inputs)
        rebuilt.append(node)
        for slot, name in enumerate(node.output):
            if name in floats:
                ready[name] = node.output[slot] = f"{name}_half"
                if name in wanted:
                    rebuilt.append(helper.make_node("Cast", [ready[name]], [name], to=single))
    del cast.graph.node[:]
    cast.graph.node.extend(rebuilt)
    for number, node in enumerate(rebuilt):
        node.name = node.name or f"cast_{number}"
    used = {name for node in rebuilt for name in node.input} | outputs
    kept = [tensor for tensor in cast.graph.initializer if tensor.name in used]
    del cast.graph.initializer[:]
    cast.graph.initializer.extend([*kept, *halved])
    del cast.graph.value_info[:]  # of the float graph
    return cast


def _float_tensors(onnx: ModuleType, model: "onnx.ModelProto") -> set[str]:
    """Return the names of all float32 tensors of the graph."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {
        value.name
        for value in (*graph.input, *graph.output, *graph.value_info)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    return found | {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}


def _float_inputs(
    node: "onnx.NodeProto", floats: set[str], chosen: bool
) -> tuple[list[int], list[str]]:
    """Return the input slots to cast, and the names of inputs that are used unchanged."""
    excepted = _ALWAYS_FLOAT.get(node.op_type, ())
    slots = [
        slot
        for slot, name in enumerate(node.input)
        if chosen and name in floats and slot not in excepted
    ]
    return slots, [name for slot, name in enumerate(node.input) if slot not in slots]


def _half_tensor(onnx: ModuleType, tensor: "onnx.TensorProto", name: str) -> "onnx.TensorProto":
    values = onnx.numpy_helper.to_array(tensor)
    if np.abs(values).max(initial=0) > LARGEST:
        raise ExportError(
            f"{tensor.name}: a weight of {np.abs(values).max():.3g} does not fit into half "
            f"precision, which ends at {LARGEST:.0f}; keep fp32"
        )
    return onnx.numpy_helper.from_array(values.astype(np.float16), name)


def _half_scale(onnx: ModuleType, tensor: "onnx.TensorProto", name: str) -> "onnx.TensorProto":
    """Return scales in half precision, rounded up so that nothing saturates, and above 0."""
    values = onnx.numpy_helper.to_array(tensor)
    half = values.astype(np.float16)
    half = np.where(half < values, np.nextafter(half, np.float16(np.inf)), half)
    return onnx.numpy_helper.from_array(half, name)


def check_half_range(onnx_path: Path, ranges: Ranges) -> None:
    """Refuse activations beyond half precision, which CPUs would compute in single precision."""
    peak, name = max((max(-low, high), name) for name, (low, high) in ranges.items())
    if not peak <= LARGEST:
        raise ExportError(
            f"{onnx_path}: {name} reaches {peak:.3g} on real pictures, and half precision ends at "
            f"{LARGEST:.0f}; keep fp32 (for int8-trt, quantization.remainder: fp32), or train with "
            "weight decay on the norms"
        )


def check_finite(path: Path, canvases: Sequence[NDArray[np.uint8]]) -> None:
    """Refuse an artifact whose outputs are not finite on real pictures."""
    with open_engine(path) as engine:
        for number, canvas in enumerate(canvases):
            found = engine.candidates(to_input([canvas], engine.manifest.input))
            if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
                raise ExportError(
                    f"{path}: boxes or scores of picture {number} are not finite in half "
                    "precision; keep fp32"
                )
