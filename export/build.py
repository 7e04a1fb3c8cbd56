"""Build a device's artifact from an exported graph, on the device itself.

`python -m export.build model.onnx --precision fp16 --out DIR` builds a TensorRT engine of a graph
that is fp16 already; `--backend tensorrt --images DIR` makes that graph first, which needs onnx
and onnxruntime, and for fp8 NVIDIA Model Optimizer. `--precision int8 --images DIR --out DIR`
quantises for CPUs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.arguments import parser_of, positive, random_seed, run_command, say, some_path
from export.atomic import require_own, require_writable
from export.backends import BACKENDS
from export.errors import ExportError

if TYPE_CHECKING:
    from export.backends.interface import Backend


def main(arguments: Sequence[str] | None = None, prog: str = "python -m export.build") -> int:
    """Run the command line; return its exit code."""
    options = command_line(prog).parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    for line in BACKENDS[backend_of(options)].summary(build(options)).split("\n"):
        say(line)
    return 0


def backend_of(options: argparse.Namespace) -> str:
    """Return the backend that is asked for.

    Default: the first backend that runs graphs if pictures are given, else one that builds.
    """
    if options.backend is not None:
        return str(options.backend)
    wanted = options.images is not None
    return next(name for name, one in BACKENDS.items() if one.runs_graphs == wanted)


def require_free_folder(folder: Path) -> None:
    """Check that an artifact can be written to `folder`, where at most another one is replaced.

    Raises:
        ToolkitError: it cannot, or a file of its name is of another.
    """
    require_writable(folder, "--out")
    for place in (folder, folder / "graph"):
        require_own(place, "model.json", {"family", "precision"}, ("model.onnx", "model.engine"))


def build(options: argparse.Namespace) -> Path:
    """Build with one backend, after making its graph where pictures are given.

    Args:
        options: values of `command_line`.

    Returns:
        The artifact, with its sidecar beside it.

    Raises:
        ToolkitError: the folder, the model, the pictures, a package or the machine does not allow
            it.
    """
    require_free_folder(options.out)
    name = backend_of(options)
    backend, model, settings = BACKENDS[name], options.model, vars(options)
    _check_request(options, name, backend)
    graph = model
    if options.images is not None:
        backend.check(model, settings)  # before calibration, which takes minutes
        folder = options.out if backend.runs_graphs else options.out / "graph"
        graph = _make_graph(options, folder, backend.graphs[options.precision])
    return backend.build(graph, options.out, settings)


def _check_request(options: argparse.Namespace, name: str, backend: "Backend") -> None:
    """Refuse a precision that the backend does not have, and pictures too many or too few."""
    from export.artifact.manifest import read_manifest

    model, precision = options.model, options.precision
    if model.suffix == ".safetensors":
        raise ExportError(f"{model}: is a checkpoint; use `slimdet build`, which exports it first")
    if precision not in backend.graphs:
        others = [other for other, one in BACKENDS.items() if precision in one.graphs]
        raise ExportError(
            f"{model}: {name} has no {precision} to be built; build "
            f"{' or '.join(backend.graphs)}, or use --backend {' or '.join(others)}"
        )
    if backend.runs_graphs and options.images is None:
        raise ExportError(f"{model}: {precision} needs pictures; give --images DIR")
    if options.images is None and options.backend is None and model.suffix == ".onnx":
        found = read_manifest(model.with_suffix(".json")).precision
        if found == "fp32" != backend.graphs[precision]:
            raise ExportError(
                f"{model}: is fp32, and {precision} was asked for, which is made by running "
                f"pictures through the model: give --images DIR. Without pictures, {name} builds "
                f"an engine of a graph that is {backend.graphs[precision]} already"
            )
    if options.images is not None and backend.graphs[precision] == "fp32":
        raise ExportError(f"{model}: fp32 takes no pictures; leave out --images")


def _make_graph(options: argparse.Namespace, folder: Path, precision: str) -> Path:
    """Cast or quantise the fp32 graph with the given pictures; return the path."""
    from export.artifact.manifest import read_manifest
    from export.pictures.calibration import calibration_canvases
    from export.precision.fp8 import quantize_fp8
    from export.precision.fp16 import cast_half
    from export.precision.int8 import PRECISION_OF, Int8Settings, quantize_int8

    spec = read_manifest(options.model.with_suffix(".json")).input
    canvases = calibration_canvases(options.images, spec, options.count, options.seed)
    if precision == "fp16":
        return cast_half(options.model, canvases, folder)
    if precision == "fp8":
        return quantize_fp8(options.model, canvases, folder, options.keep_float, seed=options.seed)
    (flavour,) = (flavour for flavour, made in PRECISION_OF.items() if made == precision)
    settings = Int8Settings(
        flavour=flavour,
        keep_float=options.keep_float,
        method=options.method,
        seed=options.seed,
        remainder=options.remainder,
        reduce_range=None if options.weight_bits is None else options.weight_bits == 7,
    )
    return quantize_int8(options.model, canvases, folder, settings)


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = parser_of(
        prog,
        "Build a TensorRT engine for this machine, or an ONNX file in another precision.",
        "0 done, 1 the result cannot be written, 3 pictures, 4 a package is missing, 6 the model "
        "cannot be built, 130 interrupted; nothing is half-written",
    )
    parser.add_argument(
        "model",
        type=some_path,
        metavar="model.onnx",
        help="ONNX file with its model.json; `slimdet build` also takes a run, a bundle or a "
        "model.safetensors, which it first exports to ONNX (fp32: that file)",
    )
    precisions = dict.fromkeys(name for one in BACKENDS.values() for name in one.graphs)
    parser.add_argument(
        "--precision", choices=tuple(precisions), required=True, help="precision of the result"
    )
    parser.add_argument(
        "--backend",
        choices=tuple(BACKENDS),
        help="runtime of the result (default: onnxruntime where --images is given, else tensorrt)",
    )
    parser.add_argument(
        "--out",
        type=some_path,
        required=True,
        metavar="DIR",
        help="folder for the result; not the model's own",
    )
    _add_quantisation(parser.add_argument_group("making the graph (needs onnx and onnxruntime)"))
    for backend in BACKENDS.values():
        backend.add_options(parser)
    return parser


def _add_quantisation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--images",
        type=some_path,
        metavar="DIR",
        help="folder of pictures for calibration and for comparing the result with the model",
    )
    group.add_argument(
        "--count", type=positive, default=64, help="number of pictures to use (default: 64)"
    )
    group.add_argument(
        "--seed", type=random_seed, default=0, help="seed of their choice (default: 0)"
    )
    group.add_argument(
        "--method",
        choices=("minmax", "entropy", "percentile"),
        default="minmax",
        help="how INT8 ranges are computed (default: minmax, the only one of FP8)",
    )
    group.add_argument(
        "--remainder",
        choices=("fp16", "fp32"),
        default="fp16",
        help="type of what TensorRT's INT8 graph does not quantise (default: fp16)",
    )
    group.add_argument(
        "--weight-bits",
        type=int,
        choices=(7, 8),
        help="bits of INT8 weights: 7 for x86 processors without VNNI (default: what this "
        "processor needs)",
    )
    group.add_argument(
        "--keep-float",
        action="append",
        default=[],
        metavar="NAME",
        help="keep nodes float whose name, or whose weights' name, contains this text; repeatable",
    )


if __name__ == "__main__":
    sys.exit(main())
