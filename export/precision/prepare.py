"""Prepare a float ONNX graph for a cast or quantisation: fold norms, infer shapes."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from export.artifact.manifest import Manifest, read_manifest
from export.errors import ExportError
from export.graph.edit import tidy
from export.optional import require

if TYPE_CHECKING:
    import onnx


def read_float_manifest(onnx_path: Path, folder: Path) -> Manifest:
    """Return the sidecar of the fp32 model from which an artifact is made in `folder`.

    Raises:
        ExportError: the model is not fp32, or `folder` is its own.
    """
    manifest = read_manifest(onnx_path.with_suffix(".json"))
    if manifest.precision != "fp32":
        raise ExportError(
            f"{onnx_path}: is {manifest.precision}; start from the fp32 model instead"
        )
    if (folder / "model.onnx").resolve() == onnx_path.resolve():
        raise ExportError(f"{folder}: holds the fp32 model itself; choose another folder")
    return manifest


def prepare(onnx_path: Path) -> "onnx.ModelProto":
    """Return the model (`onnx.ModelProto`) with norms folded into convolutions and shapes inferred.

    Raises:
        ExportError: the graph cannot be read or optimised.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    onnx = require("onnx", extra="train", purpose="Changing a model's precision")
    runtime = require("onnxruntime", extra="onnxruntime", purpose="Changing a model's precision")
    shapes = require("onnxruntime.quantization.shape_inference", extra="train", purpose="INT8")
    runtime.set_default_logger_severity(4)  # a failure is an exception
    with tempfile.TemporaryDirectory(prefix="prepare") as scratch, quiet():
        prepared = Path(scratch) / "prepared.onnx"
        try:
            # Symbolic inference would need sympy; the candidates graph has no shape it would add.
            shapes.quant_pre_process(str(onnx_path), str(prepared), skip_symbolic_shape=True)
        except Exception as error:  # the runtime's exceptions share no base but this
            raise ExportError(
                f"{onnx_path}: cannot be prepared for another precision: {error}"
            ) from error
        model = onnx.load(str(prepared))
    tidy(model)
    return model


def made_by(manifest: Manifest) -> dict[str, str]:
    """Return the manifest's package versions with those of the packages used here."""
    return {
        **manifest.made_by,
        **{
            # ONNX Runtime is distributed under several names; the module knows its own version
            name: str(require(name, extra="train", purpose="Changing precision").__version__)
            for name in ("onnx", "onnxruntime")
        },
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the quantiser's progress output and its warnings about onnx."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield
