"""Write the README's folder tree and results table: `python -m benchmarks.studies.readme`."""

import ast
import re
import sys
from pathlib import Path

from benchmarks.gates import rows_by_key
from benchmarks.report.content import read_report
from benchmarks.report.schema import Gain, ReportData
from benchmarks.report.text import ap_cell

ROOT = Path(__file__).resolve().parents[2]
OLDER = (
    "\\* measured when JPEGs were still decoded at a fraction of their size, which changed AP "
    "by at most 0.2 on eight artifacts that were measured both ways."
)
PACKAGES = ("slimdet", "compress", "export", "benchmarks")


def tree(root: Path) -> str:
    """Return a line per folder of sources: its path and the first line of its docstring."""
    lines = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("__init__.py")):
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            lines.append((f"{path.parent.relative_to(root).as_posix()}/", text.split("\n")[0]))
    width = max(len(name) for name, _ in lines)
    return "\n".join(["```text", *(f"{name:<{width}}  {text}" for name, text in lines), "```"])


def results(root: Path) -> str:
    """Return a row per run in `benchmarks/results/run_*.json`, which are copies of report.json."""
    rows = [
        "| run | teacher AP | baseline | student | gain [95 %] | at equal time | "
        "INT8 | student / teacher, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    measured = sorted((root / "benchmarks" / "results").glob("run_*.json"))
    reports = [read_report(path) for path in measured]
    rows += [_row(report) for report in reports]
    if any(report.preprocessing is None for report in reports):
        rows += ["", OLDER]
    return "\n".join(rows)


def _row(report: ReportData) -> str:
    found = rows_by_key(report)

    def ap(model: str, precision: str = "fp32") -> str:
        row = found.get((model, "onnxruntime", precision))
        return "-" if row is None else ap_cell(row, report)

    def engine_ms(model: str) -> str:
        row = found[(model, "onnxruntime", "fp32")]
        assert row.latency_ms is not None, f"{report.name}: no latency of the {model} in fp32"
        if row.verdict != "valid":
            return row.verdict.split(":")[0]
        return f"{row.latency_ms.engine.p50:.1f}"

    name = report.name + ("\\*" if report.preprocessing is None else "")
    gain = report.gain
    assert gain is not None, f"{report.name}: a published run has a baseline"
    equal = gain.equal_time
    seeds = f"{gain.seeds} seed{'s' if gain.seeds > 1 else ''}"
    over_time = "-" if equal is None else f"{_gain(equal)}: {equal.verdict.split(' (')[0]}"
    return (
        f"| {name} | {ap('teacher')} | {ap('baseline')} | {ap('student')} | "
        f"{_gain(gain)}, {seeds}: {gain.verdict.split(' (')[0]} | "
        f"{over_time} | {ap('student', 'int8')} | "
        f"{engine_ms('student')} / {engine_ms('teacher')} |"
    )


def _gain(gain: Gain) -> str:
    interval = gain.ci95
    spread = f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]" if interval else ""
    return f"{100 * gain.ap:+.1f}{spread}"


def filled(readme: str, root: Path) -> str:
    """Return the README's text with the parts between its markers regenerated."""
    for name, made in (("tree", tree(root)), ("results", results(root))):
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        readme = pattern.sub(lambda m, made=made: m[1] + made + "\n" + m[2], readme)  # type: ignore[misc]
    return readme


def main() -> int:
    """Rewrite README.md."""
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(encoding="utf-8"), ROOT), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
