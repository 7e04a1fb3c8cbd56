"""Build an artifact in another precision, or for another runtime, from Python."""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path

from export.atomic import require_writable
from export.backends import BACKENDS
from export.build import backend_of, build, command_line
from export.errors import ExportError
from slimdet.loading import artifact_in, given_path


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
    """Build an artifact of a detector, as `slimdet build` does with its defaults.

    `slimdet build` has every other setting of a backend, such as batches and timing caches.

    Args:
        model: a model.onnx with its model.json, FP32 where pictures are given; a model.safetensors,
            which is exported to ONNX first; or a run or bundle, of which the artifact that `load`
            opens is taken.
        out: another folder, for the artifact and its sidecar.
        precision: fp32, fp16, int8 or fp8, where the backend supports it. `fp32` of a
            model.safetensors is its ONNX file.
        backend: onnxruntime or tensorrt; None takes onnxruntime if pictures are given, or for the
            ONNX file of a model.safetensors.
        images: folder of pictures like those that the detector will see, to calibrate or check on;
            not needed where TensorRT takes the graph as it is.
        count: number of pictures to use.
        seed: seed of the choice of pictures.
        keep_float: substrings of the names of nodes that stay float.

    Returns:
        Path of the artifact.

    Raises:
        DataError: the pictures cannot be read.
        ExportError: the model cannot be built in this precision.
        MissingDependencyError: a package that is needed is not installed.
        ToolkitError: `out` cannot be written to.
    """
    source = given_path(model)
    if backend is not None and backend not in BACKENDS:
        raise ExportError(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    for name, value, least in (("count", count, 1), ("seed", seed, 0)):
        if value < least:
            raise ExportError(f"{name} {value}: expected at least {least}")
    # The command's defaults. The arguments are set below, because the parser would exit the
    # process on an invalid value.
    options = command_line("slimdet.export").parse_args(
        [str(source), "--precision", "fp32", "--out", str(given_path(out))]
    )
    options.precision, options.backend = precision, backend
    options.images = None if images is None else Path(images)
    options.count, options.seed, options.keep_float = count, seed, list(keep_float)
    return build_model(options)


def build_model(options: argparse.Namespace) -> Path:
    """Build of anything that `load` opens; a checkpoint is exported to ONNX first.

    Args:
        options: values of `export.build.command_line`; `model` and `backend` are filled in.

    Raises:
        ToolkitError: the model, the pictures, a package or the machine does not fit the options.
    """
    require_writable(options.out, "--out")
    with ExitStack() as stack:
        options.model = artifact_in(options.model, None, stack)
        if options.model.suffix != ".safetensors":
            return build(options)
        from slimdet.checkpoint import checkpoint_to_onnx

        checkpoint, seen = options.model, (options.images, options.count, options.seed)
        if options.precision == "fp32":
            if options.backend is None:
                options.backend = next(n for n, one in BACKENDS.items() if one.runs_graphs)
            if BACKENDS[backend_of(options)].runs_graphs:
                return checkpoint_to_onnx(checkpoint, options.out, *seen)
            options.images = None  # TensorRT takes the graph as it is
        elif options.images is None:
            raise ExportError(
                f"{checkpoint}: {options.precision} is made of the checkpoint's FP32 graph on "
                "pictures; give --images DIR (in Python: images=)"
            )
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="slimdet-"))
        options.model = checkpoint_to_onnx(checkpoint, Path(folder) / "fp32", *seen)
        return build(options)
