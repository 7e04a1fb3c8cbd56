"""report.md, for terminals, pull requests and mail."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.plots import Plot
from benchmarks.report_text import (
    HEADER,
    NUMERIC_COLUMNS,
    Content,
    facts,
    headlines,
    table_footnotes,
    table_row,
    training_table,
)


def markdown_page(content: Content, plots: Sequence[Plot], folder: Path) -> str:
    """The whole report as Markdown; pictures by relative path."""
    lines = [f"# {content['name']}", ""]
    for warning in content["warnings"]:
        lines += [f"> **Warning.** {warning}", ">"]
    if content["warnings"]:
        lines[-1] = ""
    for headline in headlines(content):
        lines.append(f"- **{headline.title}: {headline.figure}.** {headline.explanation}")
    lines += ["", "## Results", ""]
    lines += _table(HEADER, [table_row(row) for row in content["rows"]], NUMERIC_COLUMNS)
    lines += ["", *(f"{note}  " for note in table_footnotes(content)), ""]
    for plot in plots:
        lines += [f"![{plot.title}]({plot.path.relative_to(folder).as_posix()})", ""]
    if content["training"]:
        header, cells = training_table(content)
        lines += ["## Training", "", *_table(header, cells, range(1, len(header))), ""]
    if content["pictures"]:
        lines += ["## Photographs", ""]
        for picture in content["pictures"]:
            lines += [f"![{picture['caption']}]({picture['path']})", "", picture["caption"], ""]
    if content["data"]:
        lines += ["## Data", "", *_facts(content["data"]), ""]
    if content["notes"]:
        lines += ["## Notes", "", *(f"- {note}" for note in content["notes"]), ""]
    lines += ["## Environment", "", *_facts(content["environment"]), ""]
    if content["recipe"]:
        lines += ["## Recipe", "", "```yaml", content["recipe"].rstrip(), "```", ""]
    return "\n".join(lines)


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int]
) -> list[str]:
    ruler = ["---:" if column in numeric else "---" for column in range(len(header))]
    return [_line(cells) for cells in (header, ruler, *rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _facts(tree: object) -> list[str]:
    if isinstance(tree, str):
        return ["```text", tree.rstrip(), "```"]
    return [f"- {key}: {value}" for key, value in facts(tree)]
