"""Activation ranges on real pictures, cached by everything they depend on."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import InputSpec
from export.atomic import read_checked_json, write_checked_json
from export.errors import DataError, ExportError
from export.graph.edit import WEIGHTED
from export.optional import require
from export.pictures.calibration import calibration_batches
from export.pictures.images import Images
from export.precision.prepare import quiet

if TYPE_CHECKING:
    import onnx

Method = Literal["minmax", "entropy", "percentile"]
Ranges = dict[str, tuple[float, float]]  # tensor -> lowest, highest
_CHUNK = 8  # pictures whose activations are in memory at a time


def activation_ranges(
    model: "onnx.ModelProto",
    canvases: Sequence[NDArray[np.uint8]],
    spec: InputSpec,
    method: Method,
    *,
    symmetric: bool = False,
    cache: Path | None = None,
) -> Ranges:
    """Return the range of every tensor into and out of Conv, Gemm and MatMul.

    Args:
        model: a prepared float `onnx.ModelProto`.
        canvases: real letterboxed (H, W, 3) pictures of the input's size.
        spec: input of the model.
        method: how a range is computed from the activations.
        symmetric: ranges around zero; only the histogram methods differ.
        cache: a folder of earlier results, keyed by pictures, weights and settings.

    Raises:
        DataError: no pictures, or of another size than the model takes.
        ExportError: ONNX Runtime cannot run the model.
    """
    size = (spec.height, spec.width, 3)
    if not canvases or any(canvas.shape != size for canvas in canvases):
        found = sorted({canvas.shape for canvas in canvases}) or "none"
        raise DataError(f"calibration pictures: expected some of {size}, got {found}")
    key = calibration_key(model, canvases, method, symmetric=symmetric)
    kept = None if cache is None else cache / f"{key}.json"
    known = None if kept is None else read_checked_json(kept)
    if isinstance(known, dict):
        return {name: (low, high) for name, (low, high) in known.items()}
    ranges = _measure(model, canvases, spec, method, symmetric)
    if kept is not None:
        write_checked_json(ranges, kept)
    return ranges


def calibration_key(
    model: "onnx.ModelProto",
    canvases: Sequence[NDArray[np.uint8]],
    method: Method,
    *,
    symmetric: bool,
) -> str:
    """Return the SHA-256 of graph, weights, pictures and settings."""
    runtime = require("onnxruntime", extra="onnxruntime", purpose="Calibration")
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    digest.update(f"{method} {symmetric} {runtime.__version__}".encode())
    for canvas in canvases:
        digest.update(str(canvas.shape).encode())
        digest.update(np.ascontiguousarray(canvas).tobytes())
    return digest.hexdigest()


class _Reader:
    """Calibration inputs as the calibrator takes them, one at a time."""

    def __init__(self, batches: Iterator[dict[str, Images]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Images] | None:
        return next(self._batches, None)


def _measure(
    model: "onnx.ModelProto",
    canvases: Sequence[NDArray[np.uint8]],
    spec: InputSpec,
    method: Method,
    symmetric: bool,
) -> Ranges:
    onnx = require("onnx", extra="train", purpose="Calibration")
    calibrate = require("onnxruntime.quantization.calibrate", extra="train", purpose="Calibration")
    methods = calibrate.CalibrationMethod
    chosen = {
        "minmax": methods.MinMax,
        "entropy": methods.Entropy,
        "percentile": methods.Percentile,
    }[method]
    with tempfile.TemporaryDirectory(prefix="calibrate") as scratch, quiet():
        source = Path(scratch) / "model.onnx"
        onnx.save(model, str(source))
        calibrator = calibrate.create_calibrator(
            source,
            sorted(WEIGHTED),
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=chosen,
            providers=["CPUExecutionProvider"],
            extra_options={"symmetric": symmetric},
        )
        try:
            for start in range(0, len(canvases), _CHUNK):
                part = canvases[start : start + _CHUNK]
                calibrator.collect_data(_Reader(calibration_batches(part, spec)))
            found = calibrator.compute_data()
        except Exception as error:  # ONNX Runtime's exception classes share no base but this
            said = " ".join(str(error).split())
            raise ExportError(
                f"the model cannot be run on the calibration pictures: {said}; export it again"
            ) from error
    return {
        name: (float(np.min(data.lowest)), float(np.max(data.highest)))
        for name, data in found.items()
    }
