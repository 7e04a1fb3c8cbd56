"""Compare two reports: `python -m benchmarks.compare A B`.

With limits (`--max-ap-drop 0.3 --max-p99 +5%`) it exits 3 if B exceeds one.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from export.arguments import decimal, json_option, parser_of, run_command, some_path
from export.errors import RecipeError, printable, shown

if TYPE_CHECKING:
    from benchmarks.gates import GatesConfig
    from benchmarks.report.schema import ReportData, ReportRow

WIDTH = 100  # columns of a note


def main(arguments: Sequence[str] | None = None, prog: str = "python -m benchmarks.compare") -> int:
    """Print the differences; return the exit code: 0 success, 3 a limit is exceeded."""
    options = command_line(prog).parse_args(arguments)
    return run_command(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    from benchmarks.gates import GateError, broken_gates, load_report

    before, after = load_report(options.before), load_report(options.after)
    gates = _gates(options)
    changes = differences(before, after)
    broken = broken_gates(before, after, gates)
    if options.json:
        sys.stdout.write(json.dumps({"rows": changes, "broken": broken}) + "\n")
    else:
        sys.stdout.write("\n".join([*_table(changes), *_notes(before, after)]) + "\n")
    if broken:
        raise GateError(*broken)
    return 0


def _gates(options: argparse.Namespace) -> "GatesConfig":
    from pydantic import ValidationError

    from benchmarks.gates import LIMITS, GatesConfig
    from export.reading.mistakes import described

    given: dict[str, list[str]] = {name: getattr(options, name) for name in LIMITS}
    for name, values in given.items():
        if len(values) > 1:
            raise RecipeError(
                f"{_option(name)} is given {len(values)} times ({', '.join(map(shown, values))}); "
                "give it once"
            )
    limits: dict[str, str | float] = {name: values[0] for name, values in given.items() if values}
    try:
        if "max_ap_drop" in limits:
            limits["max_ap_drop"] = decimal(str(limits["max_ap_drop"]))
        return GatesConfig.model_validate({**limits, "allow_noisy": options.allow_noisy})
    except argparse.ArgumentTypeError as error:
        raise RecipeError(f"--max-ap-drop: {error}; write AP points, as in 0.3") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = described(first["type"], first.get("ctx", {}), first["input"])
        raise RecipeError(f"{_option(str(first['loc'][0]))}: {problem}") from None


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


class Figures(TypedDict):
    """One row of one report."""

    ap: float | None
    p50_ms: float | None
    p99_ms: float | None
    size_mb: float | None
    verdict: str
    sha256: str | None


class Change(TypedDict):
    """One row of both reports; None for a report that lacks it."""

    row: str
    before: Figures | None
    after: Figures | None


def differences(before: "ReportData", after: "ReportData") -> list[Change]:
    """Return one entry per row of either report; AP in points, 0..100."""
    from benchmarks.gates import rows_by_key

    old, new = rows_by_key(before), rows_by_key(after)
    return [
        {
            "row": printable(" ".join(key)),
            "before": _figures(old.get(key)),
            "after": _figures(new.get(key)),
        }
        for key in dict.fromkeys([*old, *new])
    ]


def _figures(row: "ReportRow | None") -> Figures | None:
    from benchmarks.gates import latency

    if row is None:
        return None
    ap = row.ap["AP"]
    return {
        "ap": None if ap is None else 100 * ap,
        "p50_ms": latency(row, "p50"),
        "p99_ms": latency(row, "p99"),
        "size_mb": row.size_mb,
        "verdict": row.verdict,
        "sha256": row.sha256,
    }


def _table(changes: Sequence[Change]) -> list[str]:
    if not changes:
        return ["neither report has a row"]
    rows = [("row", "AP", "p50 ms", "p99 ms", "MB")]
    for change in changes:
        before, after = change["before"], change["after"]
        if before is None or after is None:
            continue
        rows.append(
            (
                change["row"],
                _points(before["ap"], after["ap"]),
                _ratio(before["p50_ms"], after["p50_ms"]),
                _ratio(before["p99_ms"], after["p99_ms"]),
                _ratio(before["size_mb"], after["size_mb"]),
            )
        )
    title, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        "  ".join(
            (name.ljust(title), *(cell.rjust(w) for cell, w in zip(cells, widths, strict=True)))
        ).rstrip()
        for name, *cells in rows
    ]
    same = []
    for change in changes:
        before, after = change["before"], change["after"]
        if before is None or after is None:
            only = "the second" if before is None else "the first"
            lines.append(f"{change['row'].ljust(title)}  only in {only} report")
        elif before["sha256"] is not None and before["sha256"] == after["sha256"]:
            same.append(change["row"])
    if same:
        lines += _wrapped(f"same file in both reports: {', '.join(same)}")
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False)


def _points(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "n/a"
    return _change(f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}")


def _ratio(before: float | None, after: float | None) -> str:
    if before is None or after is None or not before:
        return "n/a"
    return _change(f"{before:.3g}", f"{after:.3g}", f"{100 * (after / before - 1):+.0f}%")


def _change(before: str, after: str, difference: str) -> str:
    return after if before == after else f"{before} -> {after} ({difference})"


def _notes(before: "ReportData", after: "ReportData") -> list[str]:
    from benchmarks.comparable import other_machine, other_pictures, other_preprocessing
    from benchmarks.gates import rows_by_key

    notes = []
    other = other_pictures(before, after)
    if other is not None:
        notes.append(f"AP is not comparable: {printable(other)}")
    for name in ("cpu", "gpus"):
        found = other_machine(before, after, name)
        if found is not None:
            notes.append(
                f"measured on different machines: {printable(found)}; latencies are not comparable"
            )
    if None not in (before.preprocessing, after.preprocessing):
        unlike = other_preprocessing(before, after)
        notes += [] if unlike is None else [f"AP is not comparable: {unlike}"]
    for where, report in (("first", before), ("second", after)):
        if report.preprocessing is None and before.preprocessing != after.preprocessing:
            notes.append(
                f"the {where} report is of before pictures were decoded in full everywhere: AP on "
                "JPEGs larger than the input may differ for that reason alone"
            )
    noisy = [
        f"{where} {printable(' '.join(key))}"
        for where, report in (("first", before), ("second", after))
        for key, row in rows_by_key(report).items()
        if row.verdict.partition(":")[0] not in {"valid", "not measured"}
    ]
    if noisy:
        notes += _wrapped(f"noisy timings: {', '.join(noisy)}")
    return notes


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = parser_of(
        prog,
        "Compare two reports; with limits, check whether B exceeds one.",
        "0 success, 1 a report cannot be read, 2 a limit is not valid, 3 a limit is exceeded",
    )
    parser.add_argument(
        "before",
        type=some_path,
        metavar="A",
        help="report to compare with: its file, its folder or the run's folder",
    )
    parser.add_argument("after", type=some_path, metavar="B", help="new report")
    # Limits are appended, so that one that is given twice is noticed.
    parser.add_argument(
        "--max-ap-drop",
        action="append",
        default=[],
        metavar="POINTS",
        help="most AP points that a row may lose",
    )
    for name, what, unit in (
        ("p50", "median latency", "ms"),
        ("p99", "the latency's 99th percentile", "ms"),
        ("size", "the file", "MB"),
    ):
        parser.add_argument(
            f"--max-{name}",
            action="append",
            default=[],
            metavar="+5%",
            help=f"most that {what} may grow, in per cent of A; or its largest value, {unit}",
        )
    parser.add_argument(
        "--allow-noisy",
        action="store_true",
        help="apply latency limits also to timings from a busy machine",
    )
    json_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
