"""Limits for a new report relative to a reference report. What cannot be checked is exceeded."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from benchmarks.comparable import few, other_conditions, other_pictures, other_preprocessing
from export.config import LocalPath, Section
from export.errors import ToolkitError, counted

if TYPE_CHECKING:
    from benchmarks.report.schema import ReportData, ReportRow

RowKey = tuple[str, str, str]
Quantile = Literal["p50", "p99"]
STUDENT = "student"
FEWEST_CALLS = 2
LIMITS = ("max_ap_drop", "max_p50", "max_p99", "max_size")
# Verdicts on a timing; a row with any other has failed.
TIMING = re.compile(r"valid|(noisy|throttled|not measured)(: .+)?", re.DOTALL)
# Keys by which other programs mark a row.
FAILURES = ("failed", "failure", "error", "errors", "exception", "skipped")
# What a file of a detector can have, and a call of one can take: a figure outside is a mistake.
PLAUSIBLE = {"MB": (1e-3, 1e6), "ms": (1e-2, 1e7)}
MOST_PER_CENT, MOST = 1000, 1e6  # nothing exceeds a limit above


class GateError(ToolkitError):
    """A measured figure exceeds its limit."""

    exit_code = 3


class GatesConfig(Section):
    """Limits relative to a reference report; None means no limit.

    A limit in per cent (`+5%`) is relative to the reference; a plain number is absolute: AP points
    for `max_ap_drop`, milliseconds or megabytes for the others.
    """

    reference: LocalPath | None = None  # report.json, or the report's or the run's folder
    max_ap_drop: float | None = Field(default=None, ge=0, lt=100, allow_inf_nan=False)  # AP points
    max_p50: str | float | None = None  # end to end
    max_p99: str | float | None = None  # end to end
    max_size: str | float | None = None
    allow_noisy: bool = False  # apply latency limits also to timings from a busy machine

    @field_validator(*LIMITS, mode="before")
    @classmethod
    def _no_truth_value(cls, limit: object) -> object:
        if isinstance(limit, bool):
            raise ValueError(f"{limit} is not a limit; write a number")
        return limit

    @field_validator("max_p50", "max_p99", "max_size")
    @classmethod
    def _readable(cls, limit: str | float | None) -> str | float | None:
        if limit is not None:
            parse_limit(limit)
        return limit

    @property
    def given(self) -> bool:
        """Whether there is any limit."""
        return any(getattr(self, name) is not None for name in LIMITS)


def parse_limit(limit: str | float) -> tuple[float, bool]:
    """Return the number, and whether it is a share of the reference (`+5%` is 0.05, True).

    Raises:
        ValueError: it is neither a percentage nor a finite number from 0, or it is so large that
            nothing can exceed it.
    """
    number, relative = _number(limit)
    most = MOST_PER_CENT / 100 if relative else MOST
    if number > most:
        kind = f"+{MOST_PER_CENT}%" if relative else f"{MOST:.0f}"
        raise ValueError(f"{limit} is not a limit, as nothing can exceed it; write at most {kind}")
    return number, relative


def _number(limit: str | float) -> tuple[float, bool]:
    if isinstance(limit, int | float):
        if not math.isfinite(limit) or limit < 0:
            raise ValueError(f"{limit} is not a limit; write +5% or a plain number from 0")
        return float(limit), False
    found = re.fullmatch(r"\s*\+?([0-9]{1,15}(?:\.[0-9]*)?)\s*(%?)\s*", limit)
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


def row_key(row: "ReportRow") -> RowKey:
    """Return (model, backend, precision); a further teacher is its name, such as `teacher2`."""
    numbered = row.model == "teacher" and row.name
    return (row.name if numbered and row.name else row.model, row.backend, row.precision)


def rows_by_key(data: "ReportData") -> dict[RowKey, "ReportRow"]:
    """Return the rows by `row_key`; of rows that occur twice the first."""
    found: dict[RowKey, ReportRow] = {}
    for row in data.rows:
        found.setdefault(row_key(row), row)
    return found


def latency(row: "ReportRow", quantile: Quantile) -> float | None:
    """Return the end-to-end latency in ms; None where it was not measured."""
    if row.latency_ms is None:
        return None
    scope = row.latency_ms.end_to_end
    return scope.p50 if quantile == "p50" else scope.p99


def broken_gates(before: "ReportData", after: "ReportData", gates: GatesConfig) -> list[str]:
    """Return one line per exceeded limit, over the rows of the reference `before`.

    A limit that cannot be checked counts as exceeded: a row that is gone, occurs twice or is marked
    as failed, a figure that was not measured or that no detector has, a latency from a busy machine
    (unless `allow_noisy`) or of another machine, batch or device, or AP on other pictures.
    """
    old, new = rows_by_key(before), rows_by_key(after)
    if not old.keys() & new.keys():
        return ["the reports have no row in common, so no limit can be checked"]
    if not gates.given:
        return []
    lines = _repeated(before, "the reference") + _repeated(after, "the new report")
    if gates.max_ap_drop is not None:
        other = other_pictures(before, after) or other_preprocessing(before, after)
        if other is not None:
            lines.append(f"AP cannot be checked: {other}; measure both on the same pictures")
            gates = gates.model_copy(update={"max_ap_drop": None})
    if STUDENT in {key[0] for key in new} - {key[0] for key in old}:
        lines.append("student: the reference has no row of it, so no limit can be checked")
    for key in old:
        title = " ".join(key)
        if key not in new:
            lines.append(
                f"{title}: the row is gone from the new report, so no limit can be checked"
            )
            continue
        failed = [
            f"{title}: no limit can be checked: the row of {where} is marked {mark}"
            for where, row in (("the reference", old[key]), ("the new report", new[key]))
            if (mark := _failure(row)) is not None
        ]
        unlike = other_conditions(before, after, old[key], new[key])
        lines += failed or _row_gates(title, old[key], new[key], gates, unlike)
    return lines


def _repeated(data: "ReportData", where: str) -> list[str]:
    counts = Counter(row_key(row) for row in data.rows)
    return [
        f"{' '.join(key)}: {where} has {count} such rows, so it is not known which one counts"
        for key, count in counts.items()
        if count > 1
    ]


def _failure(row: "ReportRow") -> str | None:
    """Return how a row is marked as failed; None for one that is not."""
    if not TIMING.fullmatch(row.verdict):
        return repr(row.verdict)
    marks = row.model_extra or {}
    if marks.get("status") in FAILURES:
        return f"status: {marks['status']}"
    return next((f"{name}: {marks[name]}" for name in FAILURES if marks.get(name)), None)


def _row_gates(
    title: str, old: "ReportRow", new: "ReportRow", gates: GatesConfig, unlike: str | None
) -> list[str]:
    lines = []
    if gates.max_ap_drop is not None:
        lines += _ap_drop(title, old, new, gates.max_ap_drop)
    limits: dict[Quantile, str | float | None] = {"p50": gates.max_p50, "p99": gates.max_p99}
    for quantile, limit in limits.items():
        if limit is not None:
            values = latency(old, quantile), latency(new, quantile)
            noisy = [row.verdict for row in (old, new) if row.verdict != "valid"]
            if noisy and not gates.allow_noisy:
                lines.append(
                    f"{title}: {quantile} cannot be checked: the timing is {noisy[0]}; measure "
                    "again on a quiet machine, or allow it (--allow-noisy, gates.allow_noisy)"
                )
            elif unlike is not None:
                lines.append(
                    f"{title}: {quantile} cannot be checked: the reports were timed with {unlike}; "
                    "measure both alike"
                )
            else:
                lines += _growth(title, f"end-to-end {quantile}", "ms", values, limit) or _odd(
                    title, quantile, old, new
                )
    if gates.max_size is not None:
        lines += _growth(title, "size", "MB", (old.size_mb, new.size_mb), gates.max_size)
    return lines


def _odd(title: str, quantile: Quantile, old: "ReportRow", new: "ReportRow") -> list[str]:
    """Return why the calls that were timed give no quantiles."""
    for row, where in ((old, "the reference"), (new, "the new report")):
        scope = row.latency_ms and row.latency_ms.end_to_end
        if scope and (scope.n < FEWEST_CALLS or not scope.min <= scope.p50 <= scope.p99):
            found = f"{counted(scope.n, 'call')}, min {scope.min:g}, p50 {scope.p50:g}, p99 "
            return [
                f"{title}: {quantile} cannot be checked: {where} has {found}{scope.p99:g} ms, "
                "which is no timing"
            ]
    return []


def _ap_drop(title: str, old: "ReportRow", new: "ReportRow", limit: float) -> list[str]:
    before, after = old.ap["AP"], new.ap["AP"]
    if old.per_class and new.per_class and old.per_class.keys() != new.per_class.keys():
        differing = few(sorted(old.per_class.keys() ^ new.per_class.keys()))
        return [f"{title}: AP cannot be checked: the rows have different classes: {differing}"]
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
    least, most = PLAUSIBLE[unit]
    wrong = [value for value in (before, after) if not least <= value <= most]
    if wrong:
        return [f"{title}: {what} cannot be checked: {wrong[0]:g} {unit} is no {what}"]
    number, relative = parse_limit(limit)
    allowed = before * (1 + number) if relative else number
    if after <= allowed + 1e-9:
        return []
    return [
        f"{title}: {what} is {after:.3g} {unit}; the limit is {allowed:.3g} {unit} "
        f"({limit if relative else f'at most {number:g}'}, reference {before:.3g})"
    ]
