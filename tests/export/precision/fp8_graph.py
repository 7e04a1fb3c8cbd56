"""An FP8 artifact made by hand: the graph quantised for TensorRT with E4M3 in the place of INT8."""

from pathlib import Path
from typing import Any

import onnx

from export.artifact.manifest import file_sha256, read_manifest, write_manifest
from export.precision.int8 import Int8Settings, quantize_int8
from tests.export.tiny import canvases

LARGEST = {"int8": 127.0, "fp8": 448.0}


def in_fp8(model: Any, kind: int = onnx.TensorProto.FLOAT8E4M3FN) -> Any:
    """Return a copy whose INT8 zero points are FP8 ones, and whose scales fit."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in changed.graph.initializer}
    pairs = [n for n in changed.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    for name in {node.input[1] for node in pairs}:
        scale = onnx.numpy_helper.to_array(stored[name])
        scale = (scale * (LARGEST["int8"] / LARGEST["fp8"])).astype(scale.dtype)
        stored[name].CopyFrom(onnx.numpy_helper.from_array(scale, name))
    for name in {node.input[2] for node in pairs}:
        zero = stored[name]
        count = onnx.numpy_helper.to_array(zero).size
        zero.CopyFrom(onnx.helper.make_tensor(name, kind, zero.dims, bytes(count), raw=True))
    del changed.graph.value_info[:]
    return changed


def fp8_artifact(float_model: Path, folder: Path, precision: str = "fp8") -> Path:
    """Write `folder/model.onnx`, FP8 with FP16 beside it, and its sidecar that says `precision`."""
    path = quantize_int8(float_model, canvases(4), folder, Int8Settings(flavour="tensorrt"))
    onnx.save(in_fp8(onnx.load(str(path))), str(path))
    sidecar = path.with_suffix(".json")
    changes = {"precision": precision, "sha256": file_sha256(path), "certificate": None}
    write_manifest(read_manifest(sidecar).model_copy(update=changes), sidecar)
    return path
