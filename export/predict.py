"""Run a detector on photographs and videos: `python -m export.predict MODEL IMAGE... --draw`.

MODEL is an ONNX file, an engine, or the folder of a bundle. Writes `predictions.json` to `--out`,
and each picture or video with its boxes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.arguments import (
    json_option,
    parser_of,
    run_command,
    some_path,
    threads_option,
    threshold,
)
from export.backends import device_choices


def main(arguments: Sequence[str] | None = None, prog: str = "python -m export.predict") -> int:
    """Run the command line; return its exit code."""
    options = command_line(prog).parse_args(arguments)
    return run_command(lambda: _predict(options))


def _predict(options: argparse.Namespace) -> int:
    from export.atomic import require_writable
    from export.bundles.packing import bundle_artifact
    from export.engine import open_engine
    from export.errors import ExportError
    from export.predictions import require_free_outputs, write_predictions

    require_writable(options.out, "--out")  # before the model is loaded
    require_free_outputs(options)
    model: Path = options.model
    if model.is_dir():
        model = bundle_artifact(model, options.artifact)
    elif options.artifact is not None:
        raise ExportError(f"{model}: is no bundle, so --artifact chooses nothing; leave it out")
    with open_engine(model, options.threads, options.device) as engine:
        return write_predictions(options, engine, model)


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = parser_of(
        prog,
        "Run a detector on photographs and videos; draw and list what it finds.",
        "0 all done, 1 the results cannot be written, 3 a picture is broken or missing, 4 a "
        "package is missing, 6 the model cannot be used, 130 interrupted",
    )
    parser.add_argument(
        "model",
        type=some_path,
        metavar="MODEL",
        help="model.onnx or model.engine with its model.json beside it, or the folder of a bundle; "
        "`slimdet predict` also takes a run, bundle.tar.gz or model.safetensors",
    )
    parser.add_argument(
        "images", type=some_path, nargs="+", metavar="IMAGE", help="pictures, videos or folders"
    )
    parser.add_argument(
        "--out",
        type=some_path,
        default=Path("predictions"),
        metavar="DIR",
        help="folder for the results (default: predictions)",
    )
    parser.add_argument(
        "--draw",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write every picture with its boxes",
    )
    parser.add_argument(
        "--artifact", metavar="NAME", help="artifact of a bundle or run (default: its first)"
    )
    parser.add_argument(
        "--threshold",
        type=threshold,
        metavar="SCORE",
        help="lowest score to keep, in 0..1 (default: the model's)",
    )
    # the older name
    parser.add_argument("--score", type=threshold, dest="threshold", help=argparse.SUPPRESS)
    parser.add_argument(
        "--device",
        choices=device_choices(),
        default="cpu",
        help="device of ONNX Runtime (default: cpu)",
    )
    threads_option(parser)
    json_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
