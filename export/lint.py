"""Check a quantised ONNX file against what TensorRT takes: `python -m export.lint model.onnx`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.arguments import parser_of, run_command, say, some_path
from export.errors import ExportError, counted


def main(arguments: Sequence[str] | None = None, prog: str = "python -m export.lint") -> int:
    """Run the command line; return its exit code: 0 when the file is clean, 6 when it is not."""
    options = command_line(prog).parse_args(arguments)
    return run_command(lambda: run_lint(options))


def run_lint(options: argparse.Namespace) -> int:
    """Check the files of `options.models`; return the exit code."""
    refused = []
    for path in options.models:
        problems = _lint(path)
        for problem in problems:
            say(f"{path}: {problem}")
        if problems:
            refused.append(path)
        else:
            say(f"{path}: clean")
    if not refused:
        return 0
    count = f"{len(refused)} of {counted(len(options.models), 'file')}"
    raise ExportError(
        f"{count} would be refused by TensorRT, {refused[0]} the first; stdout says why"
    )


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = parser_of(
        prog,
        "Report what TensorRT would refuse in a quantised ONNX file.",
        "0 clean, 4 a package is missing, 6 something would be refused, or a file cannot be read",
    )
    parser.add_argument("models", type=some_path, nargs="+", metavar="model.onnx")
    return parser


def _lint(path: Path) -> list[str]:
    from export.artifact.stored_numbers import broken_number
    from export.checks.qdq_lint import lint_qdq
    from export.graph.edit import read_graph

    problems = lint_qdq(read_graph(path))
    said = broken_number(path.read_bytes())
    return problems if said is None else [*problems, said]


if __name__ == "__main__":
    sys.exit(main())
