"""Text and figures of a report, the same in every format."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from benchmarks.report.schema import ReportData, ReportRow
from benchmarks.report.seeds import over_seeds, several
from benchmarks.timing.latency import INCLUSIONS
from benchmarks.timing.load import kind_of_reason, worst_reasons
from benchmarks.timing.records import Latency, Repeats
from export.errors import counted

ABSENT = "n/a"
TITLES = {
    "teacher": "teacher",
    "baseline": "baseline",
    "baseline_equal_time": "baseline, equal time",
    "student": "student",
}
HEADER = (
    "model",
    "backend",
    "precision",
    "AP",
    "AP50",
    "AP75",
    "size MB",
    "params",
    "with copies p50 ms [95\u00a0%]",
    "end-to-end p50 ms [95\u00a0%]",
    "p90",
    "p99",
    "timing",
)
NUMERIC_COLUMNS = range(3, 12)
DOUBTFUL = ("noisy", "throttled")
BELOW_RELIABLE = "\u2020"  # a dagger; an asterisk would start a list in Markdown


def points(value: float | None, decimals: int = 1) -> str:
    """Format 0..1 as 0..100; `n/a` for None."""
    return ABSENT if value is None else f"{100 * value:.{decimals}f}"


def signed_points(value: float, decimals: int = 1) -> str:
    """Format a difference in AP points with its sign; zero has none."""
    text = f"{100 * value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\u2212")


def milliseconds(value: float | None) -> str:
    """Format milliseconds with three significant digits; `n/a` for None."""
    if value is None:
        return ABSENT
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def parameter_count(value: int | None) -> str:
    """Format 1234567 as `1.23 M`."""
    if value is None:
        return ABSENT
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.0f} k"


def row_title(row: ReportRow) -> str:
    """Return the title of a row, such as `student onnxruntime int8`."""
    return f"{model_title(row)} {row.backend} {row.precision}"


def model_title(row: ReportRow) -> str:
    """Return the title of a row's model: `student`; of several teachers the second `teacher 2`."""
    title = TITLES.get(row.model, row.model)
    number = (row.name or "").removeprefix("teacher")
    return f"{title} {number}" if row.model == "teacher" and number.isdigit() else title


def table_row(row: ReportRow, data: ReportData) -> list[str]:
    """Return the cells of one row of `data`, in the order of `HEADER`."""
    latency, ap, size = row.latency_ms, row.ap, row.size_mb
    p90 = p99 = ABSENT
    if latency is not None:
        p90, p99 = milliseconds(latency.end_to_end.p90), milliseconds(latency.end_to_end.p99)
        p99 += "" if latency.end_to_end.p99_reliable else BELOW_RELIABLE
    return [
        model_title(row),
        row.backend,
        row.precision,
        ap_cell(row, data),
        points(ap["AP50"]),
        points(ap["AP75"]),
        ABSENT if size is None else f"{size:.2f}",
        parameter_count(row.parameters),
        ABSENT if latency is None else _median_and_interval(latency.engine),
        ABSENT if latency is None else _median_and_interval(latency.end_to_end),
        p90,
        p99,
        row.verdict.partition(":")[0],  # the reasons are in the footnotes
    ]


def ap_cell(row: ReportRow, data: ReportData) -> str:
    """Return AP; of several seeds the mean and standard deviation, or the number of the seed."""
    found = over_seeds(row, data)
    if found is not None:
        return f"{points(found.mean)} \u00b1 {points(found.deviation)}"
    seed = (row.name or "").partition("-")[0].removeprefix("seed")
    one = several(data) and row.model != "teacher" and row.ap["AP"] is not None
    return points(row.ap["AP"]) + (f" (seed {seed or 0})" if one else "")


def table_footnotes(data: ReportData) -> list[str]:
    """Return the notes below the table of results."""
    notes = [f"AP is COCO's (pycocotools), 0 to 100. {ABSENT}: not applicable or not measured."]
    seeds = [found.count for row in data.rows if (found := over_seeds(row, data)) is not None]
    if seeds:
        notes.append(
            f"\u00b1: mean and standard deviation of AP over {seeds[0]} seeds. All other figures "
            "of the row are those of the first seed's file."
        )
    timed = [row.latency_ms for row in data.rows if row.latency_ms is not None]
    if timed:
        calls = sorted({latency.engine.n for latency in timed})
        batches = sorted({latency.batch for latency in timed})
        each = counted(calls[0], "call") if len(calls) == 1 else f"{calls[0]} to {calls[-1]} calls"
        notes.append(
            f"Latency in ms per call of batch {', '.join(map(str, batches))}, {each} per "
            "scope; p90 and p99 are end to end."
        )
        notes.append(INCLUSIONS)
        if not all(latency.end_to_end.p99_reliable for latency in timed):
            notes.append(f"{BELOW_RELIABLE} fewer than 500 calls: p99 depends on a few of them.")
    repeated = {
        row_title(row): row.latency_ms.repeats
        for row in data.rows
        if row.latency_ms is not None and row.latency_ms.repeats is not None
    }
    if repeated:
        notes.append(_repeats_note(repeated))
    notes += _without_nms(data.rows)
    notes += timing_doubts(data.rows)
    return notes


def _without_nms(rows: Sequence[ReportRow]) -> list[str]:
    """Return which models need no NMS, so that a mixed table can be read."""
    free = dict.fromkeys(model_title(row) for row in rows if (row.nms or {}).get("mode") == "none")
    if not free:
        return []
    every = len(free) == len(dict.fromkeys(map(model_title, rows)))
    who = "all models" if every else ", ".join(free)
    return [f"Without NMS, as their heads give one box per object: {who}."]


def timing_doubts(rows: Sequence[ReportRow]) -> list[str]:
    """Return why timings are unreliable: each reason once, with its largest value and its rows."""
    doubtful = [row for row in rows if row.verdict.startswith(DOUBTFUL)]
    told = [
        (reason, row_title(row))
        for row in doubtful
        for reason in row.verdict.partition(": ")[2].split("; ")
    ]
    worst = worst_reasons(reason for reason, _ in told)
    titles: dict[str, list[str]] = {}
    for reason, title in told:
        titles.setdefault(kind_of_reason(reason), []).append(title)
    return [
        f"Unreliable timing: {reason} "
        f"({'all rows' if len(titles[key]) == len(rows) else ', '.join(titles[key])})."
        for key, reason in worst.items()
    ]


def _repeats_note(found: Mapping[str, Repeats]) -> str:
    """Return the number of processes and the largest spread of their medians; by title of row."""
    counts = sorted({repeats.processes for repeats in found.values()})
    farthest: dict[str, tuple[float, str]] = {}
    for title, repeats in found.items():
        for scope, spread in repeats.spread.items():
            farthest[scope] = max(farthest.get(scope, (-1.0, "")), (spread, title))
    apart = [
        f"{scope.replace('_', ' ')} {spread:.0%} ({title})"
        for scope, (spread, title) in farthest.items()
    ]
    return (
        f"p50 is the median of {', '.join(map(str, counts))} processes. The interval covers the "
        "blocks within the processes, not the spread of their medians, which is at most: "
        f"{', '.join(apart)}."
    )


def training_table(data: ReportData) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return header and cells of the training runs."""
    header = ("run", "seed", "last AP", "best AP", "steps", "minutes", "ms per step", "memory MB")
    cells = []
    for name, run in data.training.items():
        measured = [ap for entry in run.curve if (ap := entry.get("AP")) is not None]
        cells.append(
            [
                name,
                str(run.seed),
                points(measured[-1]) if measured else ABSENT,
                points(max(measured)) if measured else ABSENT,
                ABSENT if run.steps is None else str(run.steps),
                ABSENT if run.seconds is None else f"{run.seconds / 60:.1f}",
                milliseconds(run.step_ms),
                ABSENT if run.peak_memory_mb is None else f"{run.peak_memory_mb:.0f}",
            ]
        )
    return header, cells


def facts(tree: JsonValue, prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a JSON tree to (key, text) pairs, one per innermost object."""
    if not isinstance(tree, Mapping):
        return [(prefix, _inline(tree))]
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping) and any(
            isinstance(inner, (Mapping, list)) for inner in value.values()
        ):
            pairs += facts(value, name)
        else:
            pairs.append((name, _inline(value)))
    return pairs


def _inline(value: JsonValue) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_inline(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_inline(inner) for inner in value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _median_and_interval(latency: Latency) -> str:
    low, high = latency.ci95_p50
    return f"{milliseconds(latency.p50)} [{milliseconds(low)}, {milliseconds(high)}]"
