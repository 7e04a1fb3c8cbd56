"""Build an artifact in another precision, or for another runtime, from Python."""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path

from export.backends import BACKENDS
from export.build import backend_of, build, command_line, require_free_folder
from export.errors import ExportError
from slimdet.arguments import a_path, a_whole_number, a_word, texts
from slimdet.loading import EXPECTED, TRAINED, artifact_in


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
        ExportError: the model cannot be built in this precision, or an argument is not valid.
        MissingDependencyError: a package that is needed is not installed.
        ToolkitError: `out` cannot be written to.
    """
    # The command's defaults. The arguments are set below, because the parser would exit the
    # process on an invalid value.
    options = command_line("slimdet.export").parse_args(
        ["model", "--precision", "fp32", "--out", "out"]
    )
    options.model = a_path(model, "model", ExportError, EXPECTED)
    options.out = a_path(out, "out", ExportError, "expected a folder")
    made = dict.fromkeys(one for known in BACKENDS.values() for one in known.graphs)
    options.precision = a_word(precision, "precision", ExportError, made)
    if backend is not None:
        options.backend = a_word(backend, "backend", ExportError, BACKENDS)
    if images is not None:
        options.images = a_path(images, "images", ExportError, "expected a folder of pictures")
    options.count = a_whole_number(count, "count", 1, ExportError)
    options.seed = a_whole_number(seed, "seed", 0, ExportError, 2**32 - 1)
    options.keep_float = texts(keep_float, "keep_float", ExportError, "conv")
    return build_model(options)


def build_model(options: argparse.Namespace) -> Path:
    """Build of anything that `load` opens; a checkpoint is exported to ONNX first.

    Args:
        options: values of `export.build.command_line`; `model` and `backend` are filled in.

    Raises:
        ToolkitError: the model, the pictures, a package or the machine does not fit the options.
    """
    require_free_folder(options.out)
    with ExitStack() as stack:
        options.model = artifact_in(options.model, None, stack)
        if options.model.suffix not in TRAINED:
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
