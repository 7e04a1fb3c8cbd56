"""report.md: the report as Markdown."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from benchmarks.report import claims, tables, text
from benchmarks.report.plots import Plot
from benchmarks.report.schema import ReportData


def markdown_page(data: ReportData, plots: Sequence[Plot], folder: Path) -> str:
    """Return the report as Markdown; pictures are linked by relative path."""
    lines = [f"# {data.name}", ""]
    if data.headline:
        lines += [data.headline, ""]
    for warning in data.warnings:
        lines += [f"> **Warning.** {warning}", ">"]
    if data.warnings:
        lines[-1] = ""
    for headline in claims.headlines(data):
        lines.append(f"- **{headline.title}: {headline.figure}.** {headline.explanation}")
    lines += ["", "## Results", ""]
    lines += _table(
        text.HEADER, [text.table_row(row, data) for row in data.rows], text.NUMERIC_COLUMNS
    )
    lines += ["", *(f"{note}  " for note in text.table_footnotes(data)), ""]
    lines += _plots(plots, "results", folder)
    lines += _chapter("Accuracy", tables.accuracy_tables(data))
    lines += _plots(plots, "classes", folder)
    if data.pictures:
        lines += ["## Photographs", ""]
        for picture in data.pictures:
            lines += [f"![{picture.caption}]({picture.path})", "", picture.caption, ""]
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
        lines += ["## Notes", "", *(f"- {note}" for note in data.notes), ""]
    lines += ["## Environment", "", *_facts(data.environment), ""]
    if data.recipe:
        lines += ["## Recipe", "", "```yaml", data.recipe.rstrip(), "```", ""]
    return "\n".join(lines)


def _plots(plots: Sequence[Plot], chapter: str, folder: Path) -> list[str]:
    lines = []
    for plot in plots:
        if plot.chapter == chapter:
            lines += [f"![{plot.title}]({plot.path.relative_to(folder).as_posix()})", ""]
    return lines


def _chapter(title: str, content: Sequence[tables.Table]) -> list[str]:
    if not content:
        return []
    return [f"## {title}", "", *(line for table in content for line in _titled(table))]


def _titled(table: tables.Table) -> list[str]:
    lines = [f"### {table.title}", "", *_table(table.header, table.rows, sorted(table.numeric)), ""]
    if table.notes:
        lines += [*(f"{note}  " for note in table.notes), ""]
    return lines


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int]
) -> list[str]:
    ruler = ["---:" if column in numeric else "---" for column in range(len(header))]
    return [_line(cells) for cells in (header, ruler, *rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(cell: str) -> str:
    """Escape characters that would end the cell or start a tag."""
    return cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _facts(tree: JsonValue) -> list[str]:
    if isinstance(tree, str):
        return ["```text", tree.rstrip(), "```"]
    return [f"- {key}: {value}" for key, value in text.facts(tree)]
