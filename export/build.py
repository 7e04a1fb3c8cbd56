"""Build what a device runs from what was exported, on the device itself.

`python -m export.build model.onnx --precision fp16 --out DIR` builds a TensorRT engine of a graph
that is fp16 already; `--backend tensorrt --images DIR` makes that graph first, which needs onnx
and onnxruntime, and for fp8 NVIDIA Model Optimizer. `--precision int8 --images DIR --out DIR`
quantises for CPUs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from export.arguments import positive
from export.errors import ExportError, ToolkitError

if TYPE_CHECKING:
    from export.backends import TensorRTConfig


def main(arguments: Sequence[str] | None = None, prog: str = "python -m export.build") -> int:
    """Run the command line; return its exit code."""
    options = command_line(prog).parse_args(arguments)
    try:
        backend = options.backend or ("onnxruntime" if options.images else "tensorrt")
        print(_build_tensorrt(options) if backend == "tensorrt" else _build_onnxruntime(options))
    except ToolkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _build_onnxruntime(options: argparse.Namespace) -> str:
    """Make an FP16 or INT8 graph for ONNX Runtime; return what to say of it."""
    from export.artifact.manifest import read_manifest

    if options.precision not in ("fp16", "int8"):
        raise ExportError(
            f"{options.model}: onnxruntime has no {options.precision} to be built; "
            "build fp16 or int8, or use --backend tensorrt"
        )
    if options.images is None:
        raise ExportError(f"{options.model}: {options.precision} needs pictures; give --images DIR")
    path = _make_graph(options, options.out, "cpu")
    record = read_manifest(path.with_suffix(".json")).quantization
    if options.precision == "fp16":
        return f"{path}: features in FP16, checked on the pictures of {options.images}"
    return (
        f"{path}: {record['nodes_quantized']} nodes in INT8, {record['nodes_kept_float']} kept "
        f"float, {record['weight_bits']}-bit weights, calibrated on {record['images']} pictures"
    )


def _make_graph(
    options: argparse.Namespace, folder: Path, flavour: Literal["cpu", "tensorrt"]
) -> Path:
    """Cast or quantise the fp32 graph, watching its pictures; return the new one's path."""
    from export.artifact.manifest import read_manifest
    from export.pictures.calibration import calibration_canvases
    from export.precision.fp8 import quantize_fp8
    from export.precision.fp16 import cast_half
    from export.precision.int8 import quantize_int8

    spec = read_manifest(options.model.with_suffix(".json")).input
    canvases = calibration_canvases(options.images, spec, options.count, options.seed)
    if options.precision == "fp16":
        return cast_half(options.model, canvases, folder)
    if options.precision == "fp8":
        return quantize_fp8(options.model, canvases, folder, options.keep_float, seed=options.seed)
    return quantize_int8(
        options.model,
        canvases,
        folder,
        options.keep_float,
        flavour=flavour,
        method=options.method,
        seed=options.seed,
        remainder=options.remainder,
    )


def _build_tensorrt(options: argparse.Namespace) -> str:
    """Build an engine, after making its graph where pictures are given; say what it is."""
    from export.artifact.manifest import read_manifest

    config, model = _tensorrt_config(options), options.model
    if options.images is not None:
        if options.precision == "fp32":
            raise ExportError(f"{model}: fp32 takes no pictures; leave out --images")
        config.check_machine(f"Building an engine of {model}")  # before minutes of calibration
        model = _make_graph(options, options.out / "graph", "tensorrt")
    path = config.build(model, options.out)
    manifest = read_manifest(path.with_suffix(".json"))
    record, certificate = manifest.engine, manifest.certificate
    assert record is not None  # the build wrote both
    assert certificate is not None
    types = ", ".join(f"{count} {name}" for name, count in certificate.nodes.items())
    lines = [
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, {record.layers} layers "
        f"({types or 'types not stated'}), built in {record.build_seconds:.0f} s for "
        f"{record.built_on}"
    ]
    if record.builds is not None:
        builds = record.builds
        listed = ", ".join(f"{median:.3f}" for median in builds.p50_ms)
        lines.append(
            f"of {len(builds.p50_ms)} builds the fastest is kept: {listed} ms at batch "
            f"{builds.batch}, spread {builds.spread:.1%}"
        )
    if record.not_timed is not None:
        lines.append(f"not timed: {record.not_timed}")
    if certificate.problem is not None:
        lines.append(f"its precision is {certificate.problem}")
    return "\n".join(lines)


def _tensorrt_config(options: argparse.Namespace) -> "TensorRTConfig":
    from pydantic import ValidationError

    from export.artifact.machine import BatchProfile
    from export.backends import TensorRTConfig

    low, best, high = options.batch
    settings: dict[str, Any] = {
        "precision": options.precision,
        "device": options.device,
        "workspace_mib": options.workspace_mib,
        "profile": BatchProfile(min=low, opt=best, max=high),
        "timing_cache": options.timing_cache,
        "optimization_level": options.optimization_level,
        "timing_iterations": options.timing_iterations,
        "tf32": options.tf32,
        "version_compatible": options.version_compatible,
        "portable": options.portable,
        "weakly_typed": options.weakly_typed,
        "builds": options.builds,
    }
    try:
        return TensorRTConfig(**settings)
    except ValidationError as error:
        raise ExportError("; ".join(mistake["msg"] for mistake in error.errors())) from None


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Build a TensorRT engine for this machine, or quantise for its CPU.",
        epilog="exit codes: 0 done, 3 pictures, 4 a package is missing, 6 the model cannot be "
        "built; nothing is half-written",
    )
    parser.add_argument("model", type=Path, metavar="model.onnx", help="with its model.json")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8", "fp8"), required=True)
    parser.add_argument(
        "--backend",
        choices=("tensorrt", "onnxruntime"),
        help="default: onnxruntime where --images is given, else tensorrt",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="another folder")
    _add_quantisation(parser.add_argument_group("making the graph (needs onnx and onnxruntime)"))
    _add_tensorrt(parser.add_argument_group("TensorRT"))
    return parser


def _add_quantisation(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--images", type=Path, metavar="DIR", help="to calibrate or check on")
    group.add_argument("--count", type=positive, default=64, help="how many (default: 64)")
    group.add_argument("--seed", type=int, default=0, help="chooses them (default: 0)")
    group.add_argument(
        "--method",
        choices=("minmax", "entropy", "percentile"),
        default="minmax",
        help="how INT8 ranges are taken (default: minmax, which FP8 always takes)",
    )
    group.add_argument(
        "--remainder",
        choices=("fp16", "fp32"),
        default="fp16",
        help="features that TensorRT's INT8 graph does not quantise (default: fp16)",
    )
    group.add_argument(
        "--keep-float",
        action="append",
        default=[],
        metavar="NAME",
        help="keep nodes with this in their name or their weights' names float; repeatable",
    )


def _add_tensorrt(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", type=int, default=0, help="which GPU (default: 0)")
    group.add_argument(
        "--batch",
        type=positive,
        nargs=3,
        default=(1, 1, 1),
        metavar=("MIN", "OPT", "MAX"),
        help="of a graph with any batch (default: 1 1 1)",
    )
    group.add_argument("--workspace-mib", type=positive, help="default: all of the GPU's memory")
    group.add_argument("--timing-cache", type=Path, metavar="FILE", help="read, and written back")
    group.add_argument("--optimization-level", type=int, choices=range(6), default=3)
    group.add_argument("--timing-iterations", type=positive, help="per tactic")
    group.add_argument("--tf32", action="store_true", help="FP32 layers in 10-bit mantissas")
    group.add_argument(
        "--version-compatible", action="store_true", help="for later versions of this major too"
    )
    group.add_argument("--portable", choices=("none", "same_sm", "ampere_plus"), default="none")
    group.add_argument(
        "--builds",
        type=positive,
        default=1,
        metavar="K",
        help="build K engines, time them in turns and keep the fastest; their spread goes into the "
        "sidecar (3 or more for numbers to publish; a timing cache makes builds alike)",
    )
    group.add_argument(
        "--weakly-typed", action="store_true", help="the older rules; TensorRT below 11 only"
    )


if __name__ == "__main__":
    sys.exit(main())
