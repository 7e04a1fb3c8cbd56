"""Pack all that a device needs into one folder, with a script that checks it.

`python -m export.bundle MODEL.onnx... --golden PHOTO.jpg --out DIR` writes models with their
sidecars, labels, thresholds, a golden picture with the boxes to expect, `verify.py`, the trtexec
lines that build the engines, a Triton model repository and a README of one page.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.arguments import (
    parser_of,
    run_command,
    say,
    some_path,
    threads_option,
)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m export.bundle") -> int:
    """Run the command line; return its exit code."""
    options = command_line(prog).parse_args(arguments)
    return run_command(lambda: run_bundle(options))


def run_bundle(options: argparse.Namespace) -> int:
    """Pack the models of `options`; return the exit code."""
    from export.bundles.packing import write_bundle

    _check_target(options.out)
    folder = write_bundle(
        options.out,
        options.models,
        options.golden,
        name=options.name or options.models[0].resolve().parent.name,
        threads=options.threads,
    )
    size = folder.with_name(folder.name + ".tar.gz").stat().st_size / 1e6
    say(f"{folder}: check it with python {folder / 'verify.py'}; packed: {size:.1f} MB")
    return 0


def _check_target(folder: Path) -> None:
    """Check, before a model is loaded, that the bundle can be written and packed beside itself."""
    from export.atomic import require_writable
    from export.errors import ExportError

    if folder.name in {"", ".."}:
        raise ExportError(f"{folder}: the bundle needs a folder of its own; give --out a new name")
    require_writable(folder, "--out")
    require_writable(folder.parent, "--out")  # for the packed bundle
    packed = folder.with_name(folder.name + ".tar.gz")
    if packed.is_dir():
        raise ExportError(f"{packed}: is a folder, and the packed bundle goes there; move it away")


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = parser_of(
        prog,
        "Pack models with all that a device needs to run and to check them.",
        "0 done, 1 the bundle cannot be written, 3 the golden picture cannot be read, 4 a package "
        "is missing, 6 a model cannot be used, 130 interrupted",
    )
    parser.add_argument(
        "models", type=some_path, nargs="+", metavar="MODEL", help="models with their sidecars"
    )
    parser.add_argument(
        "--golden",
        type=some_path,
        required=True,
        metavar="PHOTO",
        help="photograph with objects, on which the bundle is checked",
    )
    parser.add_argument(
        "--out", type=some_path, required=True, metavar="DIR", help="folder of the bundle"
    )
    parser.add_argument(
        "--name", help="the model's name (default: that of the first model's folder)"
    )
    threads_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
