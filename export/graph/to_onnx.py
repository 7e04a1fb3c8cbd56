"""Trace a detector's candidates into one ONNX file with its sidecar."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import Manifest, file_sha256, write_manifest
from export.errors import ExportError
from export.graph.edit import save_checked, tidy
from export.optional import require

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

_OUTPUTS = ("boxes", "scores", "labels")
_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


def export_onnx(
    detector: "nn.Module",
    manifest: Manifest,
    folder: Path,
    sample: NDArray[np.float32],
    *,
    opset: int = 18,
    max_batch: int = 64,
    translations: Mapping[Any, Callable[..., Any]] | None = None,
) -> Path:
    """Write `folder/model.onnx` and `folder/model.json`; return the path of the ONNX file.

    The graph maps `images` (B, 3, H, W) to `boxes` (B, P, 4), `scores` (B, P) and `labels`
    (B, P) int32. B is 1, or anything where `manifest.input.dynamic_batch`.

    Args:
        detector: a module with `candidates(images)`: fixed P, no size that depends on the data.
            Its train or eval mode is left as it was, module by module.
        manifest: sidecar content; file name, hash, opset and versions are filled in here.
        folder: output folder, created if missing.
        sample: (B, 3, H, W) real letterboxed pictures to trace with.
        opset: version of the standard operators.
        max_batch: upper bound of a dynamic batch.
        translations: torch operator -> onnxscript function, for operators ONNX does not know.

    Raises:
        ExportError: the sample has another shape than the manifest says, or the graph cannot be
            traced.
        MissingDependencyError: torch, onnx or onnxscript is not installed.
    """
    makers = {
        name: str(require(name, extra="train", purpose="Exporting to ONNX").__version__)
        for name in ("torch", "onnx", "onnxscript")
    }
    expected = (3, manifest.input.height, manifest.input.width)
    if sample.ndim != 4 or sample.shape[1:] != expected or not len(sample):
        raise ExportError(
            f"{folder}: the sample is {sample.shape}, and the manifest states (B, {expected[0]}, "
            f"{expected[1]}, {expected[2]}) with B of at least 1"
        )
    model = _trace(detector, manifest, sample, opset, max_batch, translations)
    tidy(model)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    save_checked(model, path)
    filled = manifest.model_copy(
        update={
            "artifact": path.name,
            "sha256": file_sha256(path),
            "opset": opset,
            "made_by": {**manifest.made_by, **makers},
        }
    )
    write_manifest(filled, path.with_suffix(".json"))
    return path


def _trace(
    detector: "nn.Module",
    manifest: Manifest,
    sample: NDArray[np.float32],
    opset: int,
    max_batch: int,
    translations: Mapping[Any, Callable[..., Any]] | None,
) -> "onnx.ModelProto":
    """Return the graph as an `onnx.ModelProto`."""
    import torch

    device = next((weight.device for weight in detector.parameters()), torch.device("cpu"))
    # The tracer treats a batch of one as a constant, so a dynamic batch is traced with two.
    chosen = (
        np.resize(sample, (2, *sample.shape[1:])) if manifest.input.dynamic_batch else sample[:1]
    )
    images = torch.from_numpy(np.ascontiguousarray(chosen)).to(device)
    batch = torch.export.Dim("batch", min=1, max=max_batch)
    try:
        with _evaluating(detector), _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _traceable(detector),
                (images,),
                dynamo=True,
                opset_version=opset,
                external_data=False,
                input_names=[manifest.input.name],
                output_names=list(_OUTPUTS),
                dynamic_shapes=({0: batch},) if manifest.input.dynamic_batch else None,
                custom_translation_table=dict(translations) if translations else None,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(
            f"{manifest.model} ({manifest.family}): its candidates cannot be traced to ONNX: "
            f"{_root_reason(error)}"
        ) from error
    if program is None:
        raise ExportError(f"{manifest.model} ({manifest.family}): the exporter returned no graph")
    return program.model_proto


def _traceable(detector: "nn.Module") -> "nn.Module":
    """Wrap `candidates` as the forward pass of a module."""
    import torch

    class Traceable(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detector = detector

        def forward(self, images: "Tensor") -> tuple["Tensor", "Tensor", "Tensor"]:
            boxes, scores, labels = self.detector.candidates(images)  # type: ignore[operator]
            return boxes, scores, labels.to(torch.int32)

    return Traceable().eval()


def _root_reason(error: BaseException) -> str:
    """Return the first line of the innermost cause; the exporter wraps it in general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _evaluating(detector: "nn.Module") -> Iterator[None]:
    """Put every module in eval mode, then restore each module's mode."""
    modes = {module: module.training for module in detector.modules()}
    detector.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's output about its internals."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),  # a failing trace prints whole graphs
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
