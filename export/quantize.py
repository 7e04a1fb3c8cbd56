"""INT8 for the CPU: 8-bit activations and weights where they cost no accuracy worth the name."""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.calibration import calibration_batches
from export.cpu import int8_saturates
from export.errors import DataError, ExportError
from export.graph import (
    WEIGHTED,
    first_nodes,
    nodes_matching,
    prediction_nodes,
    save_checked,
    tidy,
    with_constant_weights,
)
from export.manifest import file_sha256, read_manifest, write_manifest
from export.optional import require

Method = Literal["minmax", "entropy", "percentile"]


def quantize_cpu_int8(
    onnx_path: Path,
    canvases: Sequence[NDArray[np.uint8]],
    folder: Path,
    keep_float: Sequence[str] = (),
    *,
    method: Method = "minmax",
    seed: int = 0,
    reduce_range: bool | None = None,
) -> Path:
    """Write `folder/model.onnx` and its sidecar, quantised for ONNX Runtime on the CPU.

    Conv, Gemm and MatMul with stored weights take unsigned 8-bit activations and signed 8-bit
    weights per channel, in Q/DQ form. The first Conv, the Convs and Gemms that predict and all
    that decodes after them stay float.

    Args:
        onnx_path: the float model, with its sidecar beside it.
        canvases: real letterboxed (H, W, 3) pictures of the input's size.
        folder: made if it is not there; not the float model's own.
        keep_float: parts of names; nodes whose name or weights' names contain one stay float.
        method: how ranges are taken from the activations seen.
        seed: that chose the pictures, for the record.
        reduce_range: keep weights to 7 bits; None does so on processors that need it.

    Raises:
        DataError: no pictures, or of another size than the model takes.
        ExportError: the model is not float, a `keep_float` part matches nothing, or nothing is
            left to quantise.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    manifest = read_manifest(onnx_path.with_suffix(".json"))
    size = (manifest.input.height, manifest.input.width, 3)
    if not canvases or any(canvas.shape != size for canvas in canvases):
        found = sorted({canvas.shape for canvas in canvases}) or "none"
        raise DataError(f"calibration pictures: expected some of {size}, got {found}")
    if manifest.precision != "fp32":
        raise ExportError(f"{onnx_path}: is {manifest.precision}; quantise the fp32 model instead")
    path = folder / "model.onnx"
    if path.resolve() == onnx_path.resolve():
        raise ExportError(f"{folder}: holds the fp32 model itself; choose another folder")
    reduced = int8_saturates() if reduce_range is None else reduce_range
    with tempfile.TemporaryDirectory(prefix="quantize") as scratch, _quiet():
        prepared = _prepare(onnx_path, Path(scratch))
        chosen, kept = _choose(prepared, keep_float)
        reader = _Reader(calibration_batches(canvases, manifest.input))
        model = _quantize(prepared, Path(scratch), reader, chosen, method, reduced)
    tidy(model)
    folder.mkdir(parents=True, exist_ok=True)
    save_checked(model, path)
    record: dict[str, str | int | float] = {
        "method": method,
        "scheme": "U8S8 QDQ, weights per channel",
        "images": len(canvases),
        "seed": seed,
        "nodes_quantized": len(chosen),
        "nodes_kept_float": len(kept),
        "weight_bits": 7 if reduced else 8,
        "float_sha256": file_sha256(onnx_path),
    }
    filled = manifest.model_copy(
        update={
            "precision": "int8",
            "backend": "onnxruntime",
            "artifact": path.name,
            "sha256": file_sha256(path),
            "parity": {},  # the float model's says nothing of this one
            "quantization": record,
            "made_by": {
                **manifest.made_by,
                **{name: _version_of(name) for name in ("onnx", "onnxruntime")},
            },
        }
    )
    write_manifest(filled, path.with_suffix(".json"))
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser, which prints its progress and warns of its own use of onnx."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield


def _version_of(package: str) -> str:
    """Return a package's own version; ONNX Runtime is distributed under several names."""
    return str(require(package, extra="onnxruntime", purpose="Quantisation").__version__)


class _Reader:
    """Calibration inputs, one at a time, as the quantiser asks for them."""

    def __init__(self, batches: Iterator[dict[str, NDArray[np.float32]]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def _prepare(onnx_path: Path, scratch: Path) -> Any:
    """Return the model with norms folded into convolutions and every shape inferred."""
    onnx = require("onnx", extra="train", purpose="Quantising a model")
    runtime = require("onnxruntime", extra="onnxruntime", purpose="Quantising a model")
    shapes = require("onnxruntime.quantization.shape_inference", extra="train", purpose="INT8")
    runtime.set_default_logger_severity(3)
    prepared = scratch / "prepared.onnx"
    try:
        # Symbolic inference would need sympy; the candidates graph has no shape it would add.
        shapes.quant_pre_process(str(onnx_path), str(prepared), skip_symbolic_shape=True)
    except Exception as error:  # the runtime's exceptions share no base but this
        raise ExportError(f"{onnx_path}: cannot be prepared for quantisation: {error}") from error
    return onnx.load(str(prepared))


def _choose(model: Any, keep_float: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the nodes to quantise and of the weighted nodes to keep float."""
    candidates = with_constant_weights(model)
    protected = prediction_nodes(model) | first_nodes(model) | nodes_matching(model, keep_float)
    chosen = tuple(name for name in candidates if name not in protected)
    if not chosen:
        raise ExportError(
            f"nothing to quantise: all {len(candidates)} weighted nodes are the first, predict, "
            "or match keep_float"
        )
    return chosen, tuple(name for name in candidates if name in protected)


def _quantize(
    model: Any,
    scratch: Path,
    reader: _Reader,
    chosen: tuple[str, ...],
    method: Method,
    reduced: bool,
) -> Any:
    """Return the quantised graph as an `onnx.ModelProto`."""
    onnx = require("onnx", extra="train", purpose="Quantising a model")
    quantization = require("onnxruntime.quantization", extra="train", purpose="INT8")
    methods = quantization.CalibrationMethod
    quantized = scratch / "quantized.onnx"
    quantization.quantize_static(
        model,
        str(quantized),
        reader,
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        reduce_range=reduced,
        op_types_to_quantize=sorted(WEIGHTED),  # also: watch the tensors around these alone
        nodes_to_quantize=list(chosen),
        calibrate_method={
            "minmax": methods.MinMax,
            "entropy": methods.Entropy,
            "percentile": methods.Percentile,
        }[method],
        calibration_providers=["CPUExecutionProvider"],
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )
    return onnx.load(str(quantized))
