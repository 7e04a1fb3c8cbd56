"""Build what a device runs from what was exported, on the device itself.

`python -m export.build model.onnx --precision int8 --images DIR --out DIR`
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.calibration import calibration_canvases
from export.errors import ToolkitError
from export.manifest import read_manifest
from export.quantize import quantize_cpu_int8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        spec = read_manifest(options.model.with_suffix(".json")).input
        canvases = calibration_canvases(options.images, spec, options.count, options.seed)
        path = quantize_cpu_int8(
            options.model,
            canvases,
            options.out,
            options.keep_float,
            method=options.method,
            seed=options.seed,
        )
    except ToolkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    record = read_manifest(path.with_suffix(".json")).quantization
    print(
        f"{path}: {record['nodes_quantized']} nodes in INT8, {record['nodes_kept_float']} kept "
        f"float, {record['weight_bits']}-bit weights, calibrated on {record['images']} pictures"
    )
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.build",
        description="Quantise an exported model for this machine, calibrated on its pictures.",
    )
    parser.add_argument("model", type=Path, metavar="model.onnx", help="fp32, with its model.json")
    parser.add_argument("--precision", choices=("int8",), required=True)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="to calibrate on")
    parser.add_argument("--count", type=_positive, default=64, help="how many (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="chooses them (default: 0)")
    parser.add_argument("--method", choices=("minmax", "entropy", "percentile"), default="minmax")
    parser.add_argument(
        "--keep-float",
        action="append",
        default=[],
        metavar="NAME",
        help="keep nodes with this in their name or their weights' names float; repeatable",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="another folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
