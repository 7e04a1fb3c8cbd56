"""Limits for a new report relative to a reference report."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from export.config import Section
from export.errors import ToolkitError

if TYPE_CHECKING:
    from benchmarks.report.schema import ReportData, ReportRow

RowKey = tuple[str, str, str]
Quantile = Literal["p50", "p99"]


class GateError(ToolkitError):
    """A measured figure exceeds its limit."""

    exit_code = 3


class GatesConfig(Section):
    """Limits relative to a reference report; None means no limit.

    A limit in per cent (`+5%`) is relative to the reference; a plain number is absolute: AP points
    for `max_ap_drop`, milliseconds or megabytes for the others.
    """

    reference: Path | None = None  # report.json, or the report's or the run's folder
    max_ap_drop: float | None = Field(default=None, ge=0)  # AP points, 0..100
    max_p50: str | float | None = None  # end to end
    max_p99: str | float | None = None  # end to end
    max_size: str | float | None = None
    allow_noisy: bool = False  # apply latency limits also to timings from a busy machine

    @field_validator("max_p50", "max_p99", "max_size")
    @classmethod
    def _readable(cls, limit: str | float | None) -> str | float | None:
        if limit is not None:
            parse_limit(limit)
        return limit


def parse_limit(limit: str | float) -> tuple[float, bool]:
    """Return the number, and whether it is a share of the reference (`+5%` is 0.05, True).

    Raises:
        ValueError: the text is neither a percentage nor a number.
    """
    if isinstance(limit, int | float):
        return float(limit), False
    found = re.fullmatch(r"\s*\+?(\d+(?:\.\d*)?)\s*(%?)\s*", limit)
    if not found:
        raise ValueError(f"{limit!r} is not a limit; write +5% or a plain number")
    number = float(found.group(1))
    return (number / 100, True) if found.group(2) else (number, False)


def load_report(path: Path) -> "ReportData":
    """Read a report.json, given the file, its folder or the run's folder.

    Raises:
        ToolkitError: there is no report.json, or it is not a report.
    """
    tried = [path, path / "report.json", path / "report" / "report.json"]
    file = next((one for one in tried if one.is_file()), None)
    if file is None:
        raise ToolkitError(
            f"{path}: there is no report here; give a report.json, its folder or a run's folder"
        )
    from benchmarks.report.content import read_report  # half a second for what few recipes ask

    return read_report(file)


def rows_by_key(data: "ReportData") -> dict[RowKey, "ReportRow"]:
    """Return the rows by (model, backend, precision); of several teachers or seeds the first."""
    found: dict[RowKey, ReportRow] = {}
    for row in data.rows:
        found.setdefault((row.model, row.backend, row.precision), row)
    return found


def latency(row: "ReportRow", quantile: Quantile) -> float | None:
    """Return the end-to-end latency in ms; None where it was not measured."""
    if row.latency_ms is None:
        return None
    scope = row.latency_ms.end_to_end
    return scope.p50 if quantile == "p50" else scope.p99


def broken_gates(before: "ReportData", after: "ReportData", gates: GatesConfig) -> list[str]:
    """Return one line per exceeded limit, over the rows that both reports have.

    A limit that cannot be checked counts as exceeded: a figure that was not measured, or a latency
    from a busy machine (unless `allow_noisy`).
    """
    old, new = rows_by_key(before), rows_by_key(after)
    shared = [key for key in old if key in new]
    if not shared:
        return ["the reports have no row in common, so no limit can be checked"]
    lines = []
    for key in shared:
        title = " ".join(key)
        if gates.max_ap_drop is not None:
            lines += _ap_drop(title, old[key], new[key], gates.max_ap_drop)
        limits: dict[Quantile, str | float | None] = {"p50": gates.max_p50, "p99": gates.max_p99}
        for quantile, limit in limits.items():
            if limit is not None:
                values = latency(old[key], quantile), latency(new[key], quantile)
                noisy = [r.verdict for r in (old[key], new[key]) if r.verdict != "valid"]
                if noisy and not gates.allow_noisy:
                    lines.append(
                        f"{title}: {quantile} cannot be checked: the timing is {noisy[0]}; measure "
                        "again on a quiet machine, or allow noisy timings"
                    )
                else:
                    lines += _growth(title, f"end-to-end {quantile}", "ms", values, limit)
        if gates.max_size is not None:
            sizes = old[key].size_mb, new[key].size_mb
            lines += _growth(title, "size", "MB", sizes, gates.max_size)
    return lines


def _ap_drop(title: str, old: "ReportRow", new: "ReportRow", limit: float) -> list[str]:
    before, after = old.ap["AP"], new.ap["AP"]
    if before is None or after is None:
        return [f"{title}: AP cannot be checked: it was not measured in both reports"]
    drop = 100 * (before - after)
    if drop <= limit + 1e-9:
        return []
    return [f"{title}: AP fell by {drop:.2f} to {100 * after:.2f}; the limit is {limit:g}"]


def _growth(
    title: str,
    what: str,
    unit: str,
    values: tuple[float | None, float | None],
    limit: str | float,
) -> list[str]:
    before, after = values
    if before is None or after is None:
        return [f"{title}: {what} cannot be checked: it was not measured in both reports"]
    number, relative = parse_limit(limit)
    allowed = before * (1 + number) if relative else number
    if after <= allowed + 1e-9:
        return []
    return [
        f"{title}: {what} is {after:.3g} {unit}; the limit is {allowed:.3g} {unit} "
        f"({limit if relative else f'at most {number:g}'}, reference {before:.3g})"
    ]
