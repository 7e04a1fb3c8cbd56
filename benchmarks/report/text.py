"""Text and figures of a report, the same in every format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from benchmarks.report.schema import Gain, ReportData, ReportRow, Speed
from benchmarks.timing.latency import INCLUSIONS
from benchmarks.timing.records import Latency, Repeats

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
# COCO AP, 0..1: beyond these an export is reported as costing accuracy.
FP32_TOLERANCE = 0.001
INT8_TOLERANCE = 0.01
DOUBTFUL = ("noisy", "throttled")
BELOW_RELIABLE = "\u2020"  # a dagger; an asterisk would start a list in Markdown


@dataclass(frozen=True)
class Headline:
    """A tile at the top of the report: one figure with its explanation.

    Attributes:
        tone: good, bad or neutral.
    """

    title: str
    figure: str
    explanation: str
    tone: str


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


def table_row(row: ReportRow) -> list[str]:
    """Return the cells of one row, in the order of `HEADER`."""
    latency, ap, size = row.latency_ms, row.ap, row.size_mb
    p90 = p99 = ABSENT
    if latency is not None:
        p90, p99 = milliseconds(latency.end_to_end.p90), milliseconds(latency.end_to_end.p99)
        p99 += "" if latency.end_to_end.p99_reliable else BELOW_RELIABLE
    return [
        model_title(row),
        row.backend,
        row.precision,
        points(ap["AP"]),
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


def table_footnotes(data: ReportData) -> list[str]:
    """Return the notes below the table of results."""
    notes = [f"AP is COCO's (pycocotools), 0 to 100. {ABSENT}: not applicable or not measured."]
    timed = [row.latency_ms for row in data.rows if row.latency_ms is not None]
    if timed:
        calls = sorted({latency.engine.n for latency in timed})
        batches = sorted({latency.batch for latency in timed})
        counted = str(calls[0]) if len(calls) == 1 else f"{calls[0]} to {calls[-1]}"
        notes.append(
            f"Latency in ms per call of batch {', '.join(map(str, batches))}, {counted} calls per "
            "scope; p90 and p99 are end to end."
        )
        notes.append(INCLUSIONS)
        if not all(latency.end_to_end.p99_reliable for latency in timed):
            notes.append(f"{BELOW_RELIABLE} fewer than 500 calls: p99 is set by few of them.")
    repeated = {
        row_title(row): row.latency_ms.repeats
        for row in data.rows
        if row.latency_ms is not None and row.latency_ms.repeats is not None
    }
    if repeated:
        notes.append(_repeats_note(repeated))
    doubts: dict[str, list[str]] = {}
    for row in data.rows:
        if row.verdict.startswith(DOUBTFUL):
            doubts.setdefault(row.verdict, []).append(row_title(row))
    notes += [f"{', '.join(titles)}: {doubt}." for doubt, titles in doubts.items()]
    return notes


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


def headlines(data: ReportData) -> list[Headline]:
    """Return the tiles: gain, speed and the AP cost of export."""
    found = [_gain_headline(data.gain)] if data.gain else []
    found += [_speed_headline(speed) for speed in data.speed]
    costs = export_costs(data.rows)
    if costs:
        worst = min(cost for _, cost in costs)
        found.append(
            Headline(
                "AP cost of export",
                " / ".join(signed_points(cost, 2) for _, cost in costs),
                " / ".join(title for title, _ in costs) + ", against the same weights in torch",
                "bad" if worst < -INT8_TOLERANCE else "neutral",
            )
        )
    return found


def export_costs(rows: Sequence[ReportRow]) -> list[tuple[str, float]]:
    """Return AP of every exported student row minus that of its torch row, 0..1 scale."""
    reference = _ap_of(rows, "student", "torch")
    if reference is None:
        return []
    exported = [row for row in rows if row.model == "student" and row.backend != "torch"]
    return [
        (f"{row.backend} {row.precision}", ap - reference)
        for row in exported
        if (ap := row.ap["AP"]) is not None
    ]


def gain_sentence(gain: Gain) -> str:
    """Return the gain, its interval and the sample behind it, in one sentence."""
    seeds = gain.seeds
    text = f"{signed_points(gain.ap)} AP"
    if gain.ci95:
        text += f" [{_interval(gain.ci95)}] over {seeds} seeds"
    elif gain.bootstrap:
        drawn = _interval(gain.bootstrap.ci95)
        text += f" on one seed; [{drawn}] over validation pictures"
    else:
        text += f" on {seeds} seed" + ("s" if seeds > 1 else "")
    return f"{text}: {gain.verdict}"


def derived_warnings(data: ReportData) -> list[str]:
    """Return the warnings that follow from the numbers."""
    rows = data.rows
    found = []
    teachers = [row.ap["AP"] for row in rows if row.model == "teacher"]
    teacher = max((ap for ap in teachers if ap is not None), default=None)
    for other in ("baseline", "student"):
        ap = _ap_of(rows, other, None)
        if teacher is not None and ap is not None and teacher < ap:
            found.append(
                f"The teacher ({points(teacher)} AP) is worse than the {other} ({points(ap)} AP): "
                "distillation cannot be expected to help. Train or choose a better teacher."
            )
            break
    gain = data.gain
    if gain and gain.verdict == "worse":
        found.append(f"Distillation lowered the student's AP: {gain_sentence(gain)}.")
    for title, cost in export_costs(rows):
        limit = FP32_TOLERANCE if title.endswith("fp32") else INT8_TOLERANCE
        if abs(cost) > limit if title.endswith("fp32") else cost < -limit:
            found.append(
                f"Export to {title} changes the student by {signed_points(cost, 2)} AP "
                f"(expected within {points(limit)})."
            )
    found += _slow_int8(rows)
    noisy = [row_title(row) for row in rows if row.verdict.startswith(DOUBTFUL)]
    if noisy:
        found.append(
            f"Latency is unreliable in {len(noisy)} of {len(rows)} rows: the machine was busy or "
            "throttled. Measure again before quoting it."
        )
    return found


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


def _gain_headline(gain: Gain) -> Headline:
    proven, worse = gain.verdict == "proven", gain.verdict == "worse"
    explanation, figure = gain_sentence(gain), f"{signed_points(gain.ap)} AP"
    if gain.equal_time:
        explanation += f". At equal training time: {gain_sentence(gain.equal_time)}"
    return Headline(
        "Gain by distillation",
        figure if proven else f"{figure}, {gain.verdict.split(' (')[0]}",
        explanation,
        "good" if proven else "bad" if worse else "neutral",
    )


def _speed_headline(speed: Speed) -> Headline:
    scope = {"engine": "model with copies", "end_to_end": "end to end"}[speed.scope]
    interval = speed.ci95
    between = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    changed = speed.verdict != "no change"
    return Headline(
        f"Speed, {scope}",
        f"{speed.ratio:.2f}\u00d7" if changed else "no change",
        f"{speed.model} is {speed.ratio:.2f}{between} times as fast as {speed.reference}: "
        f"{speed.verdict}",
        {"faster": "good", "slower": "bad"}.get(speed.verdict, "neutral"),
    )


def _slow_int8(rows: Sequence[ReportRow]) -> list[str]:
    found = []
    for row in rows:
        if row.precision != "int8" or row.latency_ms is None:
            continue
        for other in rows:
            same = (other.model, other.backend) == (row.model, row.backend)
            if same and other.precision == "fp32" and other.latency_ms is not None:
                int8, fp32 = row.latency_ms.engine.p50, other.latency_ms.engine.p50
                if int8 >= fp32:
                    found.append(
                        f"{row_title(row)} takes {milliseconds(int8)} ms, fp32 "
                        f"{milliseconds(fp32)} ms"
                    )
    return [f"INT8 is not faster than FP32 here: {'; '.join(found)}."] if found else []


def _ap_of(rows: Sequence[ReportRow], model: str, backend: str | None) -> float | None:
    """Return AP of the first row of `model` (on `backend`, if given)."""
    for row in rows:
        if row.model == model and backend in (None, row.backend):
            return row.ap["AP"]
    return None


def _interval(interval: Sequence[float]) -> str:
    return f"{signed_points(interval[0])}, {signed_points(interval[1])}"


def _median_and_interval(latency: Latency) -> str:
    low, high = latency.ci95_p50
    return f"{milliseconds(latency.p50)} [{milliseconds(low)}, {milliseconds(high)}]"
