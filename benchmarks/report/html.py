"""report.html: one self-contained file without scripts, fonts or external pictures."""

import base64
from collections.abc import Iterable, Sequence
from html import escape as escaped
from pathlib import Path

from pydantic import JsonValue

from benchmarks.report import claims, tables, text
from benchmarks.report.plots import Plot
from benchmarks.report.schema import ReportData
from export.errors import printable

MOST_ROWS = 24  # a longer table is folded
STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --soft: #5b6472; --line: #d8dce2;
  --page: #f6f7f9; --card: #ffffff; --good: #0a7d4f; --bad: #b42318; --warn: #fff4e0;
  --warn-line: #d98a00; --student: #eaf3fb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --soft: #9aa3b0; --line: #374151;
  --page: #111418; --card: #1b2027; --good: #4ade9b; --bad: #ff8a7a; --warn: #33270f;
  --warn-line: #d98a00; --student: #17293a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 18px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 38px 0 12px; }
main > h3 { font-size: 14px; margin: 20px 0 8px; }
.headline { font-size: 17px; line-height: 1.5; margin: 0 0 20px; max-width: 92ch;
  overflow-wrap: anywhere; }
details > summary { cursor: pointer; font-size: 13px; color: var(--soft); padding: 4px 2px; }
.tiles { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(240px, 100%), 1fr)); }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 14px 16px; }
.tile h3 { margin: 0; font-size: 13px; font-weight: 600; color: var(--soft); }
.tile .figure { font-size: 25px; font-weight: 650; margin: 2px 0 4px; line-height: 1.25; }
.tile p { margin: 0; font-size: 13px; color: var(--soft); }
.good .figure { color: var(--good); } .bad .figure { color: var(--bad); }
.warning { background: var(--warn); border: 1px solid var(--warn-line); border-left-width: 6px;
  border-radius: 8px; padding: 10px 14px; margin: 0 0 10px; font-weight: 600; }
.tiles + h2, .warning + .tiles { margin-top: 20px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { padding: 7px 10px; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { font-size: 12px; color: var(--soft); font-weight: 600; vertical-align: bottom; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
td.text { min-width: 84px; max-width: 340px; overflow-wrap: break-word; }
th { max-width: 170px; overflow-wrap: break-word; }
tr.student td { background: var(--student); }
.facts td:first-child { color: var(--soft); width: 220px; }
.facts td { overflow-wrap: anywhere; }
.notes { font-size: 12.5px; color: var(--soft); margin: 8px 2px 0; }
.notes p { margin: 0 0 4px; }
.plots { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); }
figure { margin: 0; padding: 12px; background: #ffffff; border: 1px solid var(--line);
  border-radius: 10px; }
figure { align-self: start; }
figure.wide { grid-column: 1 / -1; }
figure.alone { grid-column: 1 / -1; max-width: 800px; }
.tile .figure, .tile p, .tile h3, .warning, .notes, ul, figcaption, summary {
  overflow-wrap: anywhere; }
figure.large { overflow-x: auto; }
figure.large img { min-width: 940px; }
figure img { display: block; width: 100%; height: auto; }
figcaption { font-size: 12.5px; color: #5b6472; padding: 8px 4px 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; overflow-x: auto; font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace; }
@media (max-width: 620px) { .plots { grid-template-columns: 1fr; } }
"""


def html_page(data: ReportData, plots: Sequence[Plot], folder: Path) -> str:
    """Return the report as one HTML page with inlined pictures."""
    name = _shown(data.name)
    sentence = data.headline
    body = [
        f"<h1>{name}</h1>",
        f'<p class="headline">{_shown(sentence)}</p>' if sentence else "",
        *(f'<div class="warning" role="alert">{_shown(w)}</div>' for w in data.warnings),
        _tiles(data),
        "<h2>Results</h2>",
        _table(
            text.HEADER,
            [text.table_row(row, data) for row in data.rows],
            text.NUMERIC_COLUMNS,
            [row.model for row in data.rows],
        ),
        _notes(text.table_footnotes(data)),
        _plots([plot for plot in plots if plot.chapter == "results"]),
        *_chapter("Accuracy", tables.accuracy_tables(data)),
        _plots([plot for plot in plots if plot.chapter == "classes"]),
    ]
    if data.pictures:
        body += ["<h2>Photographs</h2>", '<div class="plots">']
        for picture in data.pictures:
            body.append(_figure(folder / picture.path, picture.caption, "wide large"))
        body.append("</div>")
    body += _chapter("Timing", tables.timing_tables(data))
    body += _chapter("Parity and precision", tables.trust_tables(data))
    if data.training:
        header, cells = text.training_table(data)
        terms = tables.terms_table(data)
        body += [
            "<h2>Training</h2>",
            _table(header, cells, range(1, len(header))),
            _plots([plot for plot in plots if plot.chapter == "training"]),
            *(_titled(terms) if terms else []),
        ]
    if data.data:
        body += ["<h2>Data</h2>", _facts(data.data)]
    if data.notes:
        items = "".join(f"<li>{_shown(note)}</li>" for note in data.notes)
        body += ["<h2>Notes</h2>", f"<ul>{items}</ul>"]
    body += ["<h2>Environment</h2>", _facts(data.environment)]
    if data.recipe:
        body += ["<h2>Recipe</h2>", f"<pre>{_shown(data.recipe.rstrip())}</pre>"]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _shown(text: str) -> str:
    """Return text that HTML shows as it is, its control characters as escapes."""
    return escaped(printable(text, keep="\n\t"))


def _chapter(title: str, content: Sequence[tables.Table]) -> list[str]:
    """Return a heading and tables with their titles; empty without tables."""
    if not content:
        return []
    return [f"<h2>{_shown(title)}</h2>", *(part for table in content for part in _titled(table))]


def _titled(table: tables.Table) -> list[str]:
    """Return a table under its title; a long table is folded."""
    drawn = _table(table.header, table.rows, sorted(table.numeric))
    if len(table.rows) > MOST_ROWS:
        count = f"{len(table.rows)} rows"
        drawn = f"<details><summary>{count}</summary>{drawn}</details>"
    return [f"<h3>{_shown(table.title)}</h3>", drawn, _notes(table.notes) if table.notes else ""]


def _tiles(data: ReportData) -> str:
    tiles = [
        f'<div class="tile {headline.tone}"><h3>{_shown(headline.title)}</h3>'
        f'<div class="figure">{_shown(headline.figure)}</div>'
        f"<p>{_shown(headline.explanation)}</p></div>"
        for headline in claims.headlines(data)
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[int],
    kinds: Sequence[str] | None = None,
) -> str:
    """Return a table; `kinds` are the CSS classes of its rows."""

    def cell(tag: str, column: int, content: str) -> str:
        kind = "number" if column in numeric else "text"
        return f'<{tag} class="{kind}">{_shown(content)}</{tag}>'

    head = "".join(cell("th", column, title) for column, title in enumerate(header))
    lines = []
    for number, row in enumerate(rows):
        kind = f' class="{_shown(kinds[number])}"' if kinds else ""
        cells = "".join(cell("td", column, value) for column, value in enumerate(row))
        lines.append(f"<tr{kind}>{cells}</tr>")
    return (
        f'<div class="card scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _notes(notes: Iterable[str]) -> str:
    return f'<div class="notes">{"".join(f"<p>{_shown(note)}</p>" for note in notes)}</div>'


def _plots(plots: Sequence[Plot]) -> str:
    if not plots:
        return ""
    alone = "alone" if sum(not plot.wide for plot in plots) == 1 else ""
    figures = "".join(
        _figure(plot.path, plot.title, "wide" if plot.wide else alone) for plot in plots
    )
    return f'<div class="plots" style="margin-top:16px">{figures}</div>'


def _figure(path: Path, caption: str, kind: str) -> str:
    """Inline a picture, or write a note that its file is missing."""
    title = _shown(caption)
    kind_of_file = "jpeg" if path.suffix.lower() in (".jpg", ".jpeg") else "png"
    try:
        content = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError:
        return f"<figure><figcaption>{title} (picture not found)</figcaption></figure>"
    return (
        f'<figure class="{kind}">'
        f'<img alt="{title}" src="data:image/{kind_of_file};base64,{content}">'
        f"<figcaption>{title}</figcaption></figure>"
    )


def _facts(tree: JsonValue) -> str:
    if isinstance(tree, str):
        return f"<pre>{_shown(tree.rstrip())}</pre>"
    rows = "".join(
        f"<tr><td>{_shown(key)}</td><td>{_shown(value)}</td></tr>"
        for key, value in text.facts(tree)
    )
    return f'<div class="card scroll facts"><table><tbody>{rows}</tbody></table></div>'
