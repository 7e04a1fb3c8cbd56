"""Build an artifact in another precision, or for another runtime, from Python."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from export.backends import BACKENDS
from export.build import build, command_line
from export.errors import ExportError
from slimdet.loading import artifact_file


def export(
    model: str | PathLike[str],
    out: str | PathLike[str],
    *,
    precision: str,
    backend: str | None = None,
    images: str | PathLike[str] | None = None,
    count: int = 64,
    seed: int = 0,
    keep_float: Sequence[str] = (),
) -> Path:
    """Build an artifact of an exported detector, as `slimdet build` does with its defaults.

    `slimdet build` has every other setting of a backend, such as batches and timing caches.

    Args:
        model: a model.onnx with its model.json, FP32 where pictures are given; or the folder of a
            run or bundle, of which the artifact that `load` opens is taken.
        out: another folder, for the artifact and its sidecar.
        precision: fp32, fp16, int8 or fp8, as far as the backend has it.
        backend: onnxruntime or tensorrt; None takes onnxruntime if pictures are given.
        images: folder of pictures like those that the detector will see, to calibrate or check on;
            not needed where TensorRT takes the graph as it is.
        count: how many of the pictures to use.
        seed: seed of the choice of pictures.
        keep_float: parts of names of nodes that stay float.

    Returns:
        The artifact's file.

    Raises:
        DataError: the pictures cannot be read.
        ExportError: the model cannot be built in this precision.
        MissingDependencyError: a package that is needed is not installed.
    """
    source = artifact_file(Path(model), None)
    if backend is not None and backend not in BACKENDS:
        raise ExportError(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    if count < 1:
        raise ExportError(f"count {count}: expected at least 1 picture")
    # The command's defaults. What was asked for is put in below, where its parser would end the
    # process on a value that it does not know.
    options = command_line("slimdet.export").parse_args(
        [str(source), "--precision", "fp32", "--out", str(out)]
    )
    options.precision, options.backend = precision, backend
    options.images = None if images is None else Path(images)
    options.count, options.seed, options.keep_float = count, seed, list(keep_float)
    return build(options)
