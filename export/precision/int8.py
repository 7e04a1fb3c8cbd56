"""Quantise to INT8 for one of two targets: CPUs or TensorRT.

`cpu` (precision int8) has unsigned activations with a zero point, signed weights and quantised
outputs, which ONNX Runtime runs with integer kernels. `tensorrt` (precision int8-trt) is explicit
and symmetric: signed, zero points 0, weights in float behind a Q/DQ pair, and one pair per
consumer, only at the inputs of weighted nodes, so that TensorRT fuses the nodes after them. Its
other features are FP16, or FP32 on request: a strongly typed network computes them in the type they
are stored in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from export.artifact.int8_range import saturates_here
from export.artifact.manifest import file_sha256
from export.graph.edit import WEIGHTED, tidy
from export.optional import require
from export.precision.fp16 import check_half_range
from export.precision.prepare import prepare, quiet, read_float_manifest
from export.precision.quantizer import Quantizer, Remainder, choose_nodes, copy_graph
from export.precision.ranges import Method, Ranges, activation_ranges

if TYPE_CHECKING:
    import onnx

Flavour = Literal["cpu", "tensorrt"]
PRECISION_OF: dict[Flavour, str] = {"cpu": "int8", "tensorrt": "int8-trt"}
_SCHEME = {
    "cpu": "U8S8 QDQ, weights per channel",
    "tensorrt": "S8S8 QDQ, symmetric, weights per channel in float behind Q/DQ, inputs only",
}


@dataclass(frozen=True)
class Int8Settings:
    """How a model is calibrated and quantised to INT8.

    Attributes:
        flavour: target runtime, "cpu" or "tensorrt".
        keep_float: parts of names; nodes whose name or weights' names contain one stay float.
        method: how ranges are computed from the activations.
        seed: seed of the calibration sample; recorded only.
        reduce_range: keep weights to 7 bits; None does so on CPUs that need it.
        remainder: type of TensorRT's features that are not quantised; the CPU's are FP32.
    """

    flavour: Flavour = "cpu"
    keep_float: Sequence[str] = ()
    method: Method = "minmax"
    seed: int = 0
    reduce_range: bool | None = None
    remainder: Remainder = "fp16"


DEFAULTS = Int8Settings()


@dataclass(frozen=True)
class Int8Quantizer(Quantizer):
    """Quantises to INT8 with ONNX Runtime's tools.

    Attributes:
        ranges: activation ranges by tensor name.
        reduced: weights in 7 bits.
    """

    ranges: Ranges
    flavour: Flavour
    reduced: bool

    @property
    def precision(self) -> str:
        """Name of the precision."""
        return PRECISION_OF[self.flavour]

    def graph(self, nodes: Sequence[str]) -> "onnx.ModelProto":
        """Return a graph (`onnx.ModelProto`) with `nodes` quantised and all others FP32."""
        if not nodes:
            return copy_graph(self.model)
        quantization = require("onnxruntime.quantization", extra="train", purpose="INT8")
        inner = require("onnxruntime.quantization.qdq_quantizer", extra="train", purpose="INT8")
        calibrate = require("onnxruntime.quantization.calibrate", extra="train", purpose="INT8")
        kinds = quantization.QuantType
        ranges = calibrate.TensorsData(
            calibrate.CalibrationMethod.MinMax,
            {
                name: (np.float32(low), np.float32(high))
                for name, (low, high) in self.ranges.items()
            },
        )
        with quiet():
            quantizer = inner.QDQQuantizer(
                copy_graph(self.model),
                per_channel=True,
                reduce_range=self.reduced,
                weight_qType=kinds.QInt8,
                activation_qType=kinds.QUInt8 if self.flavour == "cpu" else kinds.QInt8,
                tensors_range=ranges,
                nodes_to_quantize=list(nodes),
                nodes_to_exclude=[],
                op_types_to_quantize=sorted(WEIGHTED),
                extra_options=_options(self.flavour),
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        model = quantizer.model.model
        if self.flavour == "cpu":
            keep_pools_float(model)
        tidy(model)
        return model


def open_quantizer(
    onnx_path: Path,
    canvases: Sequence[NDArray[np.uint8]],
    folder: Path,
    settings: Int8Settings = DEFAULTS,
    *,
    cache: Path | None = None,
) -> Int8Quantizer:
    """Prepare and calibrate the float model at `onnx_path`.

    The first Conv, the prediction layers and the decoding after them stay float.

    Args:
        onnx_path: the float model, with its sidecar beside it.
        canvases: real letterboxed (H, W, 3) pictures of the input's size.
        folder: output folder; not the float model's own.
        settings: flavour, layers to keep float, and how ranges are measured.
        cache: folder of earlier calibrations.

    Raises:
        DataError: no pictures, or of another size than the model takes.
        ExportError: the model is not float, a `keep_float` part matches nothing, nothing is left
            to quantise, or an FP16 remainder would overflow.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    manifest = read_float_manifest(onnx_path, folder)
    model = prepare(onnx_path)
    nodes, kept = choose_nodes(model, settings.keep_float)
    flavour, method = settings.flavour, settings.method
    cpu = flavour == "cpu"
    remainder: Remainder = "fp32" if cpu else settings.remainder

    def measure(how: Method) -> Ranges:
        return activation_ranges(
            model, canvases, manifest.input, how, symmetric=not cpu, cache=cache
        )

    ranges = measure(method)
    if remainder == "fp16":  # other methods clip the values that overflow
        check_half_range(onnx_path, ranges if method == "minmax" else measure("minmax"))
    fits = saturates_here() is False  # unknown processors count as limited
    reduced = cpu and (not fits if settings.reduce_range is None else settings.reduce_range)
    record = {
        "flavour": flavour,
        "method": method,
        "scheme": _SCHEME[flavour],
        "images": len(canvases),
        "seed": settings.seed,
        "weight_bits": 7 if reduced else 8,
        "float_sha256": file_sha256(onnx_path),
    }
    return Int8Quantizer(
        onnx_path, manifest, model, nodes, kept, remainder, record, ranges, flavour, reduced
    )


def quantize_int8(
    onnx_path: Path,
    canvases: Sequence[NDArray[np.uint8]],
    folder: Path,
    settings: Int8Settings = DEFAULTS,
) -> Path:
    """Write `folder/model.onnx` and its sidecar with all allowed nodes quantised.

    See `open_quantizer`; `export.precision.sensitivity` restores layers to float until AP holds.
    """
    quantizer = open_quantizer(onnx_path, canvases, folder, settings)
    return quantizer.write(folder, quantizer.nodes, {}, canvases[0])


def _options(flavour: Flavour) -> dict[str, bool | list[str]]:
    if flavour == "cpu":
        return {"ActivationSymmetric": False, "WeightSymmetric": True}
    return {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,  # TensorRT takes no INT32 DequantizeLinear
        "DedicatedQDQPair": True,
        "AddQDQPairToWeight": True,
        "OpTypesToExcludeOutputQuantization": sorted(WEIGHTED),
    }


def keep_pools_float(model: "onnx.ModelProto") -> None:
    """Connect sums to a MaxPool's float output instead of its quantised copy.

    ONNX Runtime moves a QuantizeLinear that is the only consumer of a MaxPool before it, and its
    8-bit MaxPool is about 20 times slower than the float one: 9 of 70 ms of a ResNet-18 RetinaNet.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for pool in model.graph.node:
        if pool.op_type != "MaxPool":
            continue
        for quantize in readers.get(pool.output[0], []):
            if quantize.op_type != "QuantizeLinear":
                continue
            for dequantize in readers.get(quantize.output[0], []):
                copied = dequantize.output[0]
                for reader in readers.get(copied, []):
                    if reader.op_type == "Add":
                        inputs = [pool.output[0] if n == copied else n for n in reader.input]
                        del reader.input[:]
                        reader.input.extend(inputs)
