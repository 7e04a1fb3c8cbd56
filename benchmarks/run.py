"""Accuracy and latency of exported models on this machine, against labelled pictures.

python -m benchmarks.run MODEL.onnx... --data val.json|FOLDER [--images DIR] [--out REPORT_DIR]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from export.arguments import (
    parser_of,
    positive,
    run_command,
    say,
    some_path,
    threads_option,
)
from export.backends import device_choices

if TYPE_CHECKING:
    from benchmarks.report.schema import ReportData


def main(arguments: Sequence[str] | None = None, prog: str = "python -m benchmarks.run") -> int:
    """Measure; return the exit code: 0 success, 1 to 6 as in `export.errors`, 130 interrupted."""
    options = command_line(prog).parse_args(arguments)
    return run_command(lambda: run_bench(options), "interrupted; no report was written")


def run_bench(options: argparse.Namespace) -> int:
    """Measure the models of `options`; return the exit code."""
    from export.atomic import require_own, require_writable

    if options.out is not None:
        require_writable(options.out, "--out")
        drawn = ("report.md", "report.html", "plots", "predictions")
        require_own(options.out, "report.json", {"schema", "rows"}, drawn)
    from benchmarks.measure import measure
    from benchmarks.report.content import complete
    from export.backends.interface import EngineSettings

    settings = EngineSettings(
        threads=options.threads, device=options.device, cuda_graph=options.cuda_graph
    )
    content = complete(
        measure(
            options.models,
            options.data,
            options.images,
            options.out,
            settings,
            options.repeats,
            options.split,
            options.division,
        )
    )
    _print_table(content)
    if options.out is not None:
        say(f"report: {options.out / 'report.html'}")
    if options.json:
        print(json.dumps(content.model_dump(mode="json", by_alias=True), allow_nan=False))
    return 0


def _print_table(data: "ReportData") -> None:
    from benchmarks.report.text import HEADER, table_footnotes, table_row

    for warning in data.warnings:
        say(f"warning: {warning}")
    cells = [list(HEADER)] + [table_row(row, data) for row in data.rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    for line in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    for note in table_footnotes(data):
        say(note)


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = parser_of(
        prog,
        "Measure accuracy and latency of exported models on this machine.",
        "0 done, 1 the report cannot be written, 3 data, 4 a package is missing, 6 a model cannot "
        "be used, 130 interrupted",
    )
    parser.add_argument(
        "models",
        nargs="+",
        type=some_path,
        metavar="MODEL.onnx",
        help="models with their sidecars",
    )
    parser.add_argument(
        "--data",
        type=some_path,
        required=True,
        help="COCO annotations (JSON), or the folder of a data set: COCO, YOLO, VOC or Roboflow",
    )
    parser.add_argument(
        "--split",
        default="val",
        help="split of that folder; `all` for every picture of a set without splits "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--division",
        type=some_path,
        metavar="RUN/split.json",
        help="record of how a run divided that folder; --split then names one of its sides: "
        "val, test or train",
    )
    parser.add_argument(
        "--images", type=some_path, help="folder of the pictures (default: searched for)"
    )
    parser.add_argument("--out", type=some_path, help="folder for report.html, .md and .json")
    threads_option(parser)
    parser.add_argument(
        "--repeats",
        type=positive,
        metavar="N",
        help="measure latency in N fresh processes; report the median and their spread "
        "(default: 3; 1: in this process)",
    )
    parser.add_argument(
        "--device",
        choices=device_choices(),
        default="cpu",
        help="device of ONNX Runtime; a TensorRT engine runs on its GPU (default: cpu)",
    )
    parser.add_argument(
        "--cuda-graph",
        action="store_true",
        help="with --device cuda: record each pass and replay it; needs a fixed batch and every "
        "kernel on the GPU",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the report as JSON in the last line"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
