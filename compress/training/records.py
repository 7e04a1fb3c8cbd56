"""The CSV tables that a training writes."""

import csv
import io
from collections.abc import Mapping, Sequence


def table(rows: Sequence[Mapping[str, float | str | None]]) -> str:
    """Return CSV with a column for every name that occurs in any row."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({n: "" if v is None else v for n, v in row.items()} for row in rows)
    return text.getvalue()
