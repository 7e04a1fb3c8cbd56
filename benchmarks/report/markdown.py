"""report.md: the report as Markdown."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from pydantic import JsonValue

from benchmarks.report import claims, tables, text
from benchmarks.report.plots import Plot
from benchmarks.report.schema import ReportData
from export.errors import as_markdown, printable


def markdown_page(data: ReportData, plots: Sequence[Plot], folder: Path) -> str:
    """Return the report as Markdown; pictures are linked by relative path."""
    lines = [f"# {as_markdown(data.name)}", ""]
    if data.headline:
        lines += [as_markdown(data.headline), ""]
    for warning in data.warnings:
        lines += [f"> **Warning.** {as_markdown(warning)}", ">"]
    if data.warnings:
        lines[-1] = ""
    for headline in claims.headlines(data):
        title, figure = as_markdown(headline.title), as_markdown(headline.figure)
        lines.append(f"- **{title}: {figure}.** {as_markdown(headline.explanation)}")
    lines += ["", "## Results", ""]
    lines += _table(
        text.HEADER, [text.table_row(row, data) for row in data.rows], text.NUMERIC_COLUMNS
    )
    lines += ["", *(f"{as_markdown(note)}  " for note in text.table_footnotes(data)), ""]
    lines += _plots(plots, "results", folder)
    lines += _chapter("Accuracy", tables.accuracy_tables(data))
    lines += _plots(plots, "classes", folder)
    if data.pictures:
        lines += ["## Photographs", ""]
        for picture in data.pictures:
            caption = as_markdown(picture.caption)
            lines += [f"![{caption}]({quote(picture.path)})", "", caption, ""]
    lines += _chapter("Timing", tables.timing_tables(data))
    lines += _chapter("Parity and precision", tables.trust_tables(data))
    if data.training:
        header, cells = text.training_table(data)
        terms = tables.terms_table(data)
        lines += ["## Training", "", *_table(header, cells, range(1, len(header))), ""]
        lines += _plots(plots, "training", folder)
        lines += _titled(terms) if terms else []
    if data.data:
        lines += ["## Data", "", *_facts(data.data), ""]
    if data.notes:
        lines += ["## Notes", "", *(f"- {as_markdown(note)}" for note in data.notes), ""]
    lines += ["## Environment", "", *_facts(data.environment), ""]
    if data.recipe:
        lines += ["## Recipe", "", *_fenced(data.recipe, "yaml"), ""]
    return "\n".join(lines)


def _plots(plots: Sequence[Plot], chapter: str, folder: Path) -> list[str]:
    lines = []
    for plot in plots:
        if plot.chapter == chapter:
            lines += [
                f"![{as_markdown(plot.title)}]({quote(plot.path.relative_to(folder).as_posix())})",
                "",
                as_markdown(plot.title),
                "",
            ]
    return lines


def _chapter(title: str, content: Sequence[tables.Table]) -> list[str]:
    if not content:
        return []
    return [f"## {title}", "", *(line for table in content for line in _titled(table))]


def _titled(table: tables.Table) -> list[str]:
    lines = [
        f"### {as_markdown(table.title)}",
        "",
        *_table(table.header, table.rows, sorted(table.numeric)),
        "",
    ]
    if table.notes:
        lines += [*(f"{as_markdown(note)}  " for note in table.notes), ""]
    return lines


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int]
) -> list[str]:
    ruler = ["---:" if column in numeric else "---" for column in range(len(header))]
    return [_line(cells) for cells in (header, ruler, *rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(as_markdown, cells)) + " |"


def _fenced(text: str, language: str) -> list[str]:
    """Return text of several lines as a block that no line of it can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", printable(text.rstrip(), keep="\n\t"), fence]


def _facts(tree: JsonValue) -> list[str]:
    if isinstance(tree, str):
        return _fenced(tree, "text")
    return [f"- {as_markdown(key)}: {as_markdown(value)}" for key, value in text.facts(tree)]
