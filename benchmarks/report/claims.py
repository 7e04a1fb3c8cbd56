"""Tiles, warnings and sentences that follow from the numbers of a report, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report.schema import Gain, ReportData, ReportRow, Speed
from benchmarks.report.text import DOUBTFUL, milliseconds, points, row_title, signed_points
from benchmarks.timing.records import Latency
from export.errors import counted

# COCO AP, 0..1: beyond these an export is reported as costing accuracy.
FP32_TOLERANCE = 0.001
INT8_TOLERANCE = 0.01
EQUAL_TIME = "plain training of equal time"
EQUAL_STEPS = "plain training of as many steps"


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


def headlines(data: ReportData) -> list[Headline]:
    """Return the tiles: gain, speed and the AP cost of export."""
    found = []
    if data.gain and data.gain.equal_time:
        found.append(_gain_headline("Gain at equal training time", data.gain.equal_time))
    if data.gain:
        found.append(_gain_headline("Gain by distillation", data.gain))
    found += [_speed_headline(speed, data.rows) for speed in data.speed]
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
                f"The teacher ({points(teacher)} AP) measured below the {other} ({points(ap)} AP): "
                "it is unlikely to help. Train or choose a better teacher."
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
            f"Latency is unreliable in {len(noisy)} of {counted(len(rows), 'row')}: the machine "
            "was busy or "
            "throttled. Measure again before quoting it."
        )
    return found


def outcome_sentence(gain: Gain) -> str:
    """Return who won, the distilled or the plain student, or that nothing is decided.

    Equal time decides where it was measured; the gain at equal steps then follows.
    """
    decided, against = gain, EQUAL_STEPS
    if gain.equal_time is not None:
        decided, against = gain.equal_time, EQUAL_TIME
    measured = f"distilled minus plain: {_measured(decided)}"
    if decided.verdict == "worse":
        text = f"{against[0].upper()}{against[1:]} won ({measured})"
    elif decided.verdict == "proven":
        text = f"Distillation won over {against} ({measured})"
    elif decided.seeds == 1 and decided.ap < 0:
        text = (
            f"{against[0].upper()}{against[1:]} ended ahead ({measured}), but one seed decides "
            "nothing"
        )
    else:
        text = f"Nothing is decided between distillation and {against} ({measured})"
    if gain.equal_time is not None:
        text += f". At equal steps: {_measured(gain)} ({gain.verdict.partition(' (')[0]})"
    return text


def _measured(gain: Gain) -> str:
    text = f"{signed_points(gain.ap)} AP"
    if gain.ci95:
        return f"{text} [{_interval(gain.ci95)}] over {gain.seeds} seeds"
    if gain.bootstrap:
        return f"{text} [{_interval(gain.bootstrap.ci95)} over validation pictures] on one seed"
    return f"{text} on one seed" if gain.seeds == 1 else f"{text} on {gain.seeds} seeds"


def speed_doubt(speed: Speed, rows: Sequence[ReportRow]) -> str:
    """Return why a ratio of times gives no verdict; "" if it gives one."""
    for row in rows:
        rest = f"{row.backend} {row.precision}"
        titles = {row_title(row), f"{row.model} {rest}", f"{row.name or row.model} {rest}"}
        kind = row.verdict.partition(":")[0]
        if titles & {speed.model, speed.reference} and kind in DOUBTFUL:
            return f"the timing is {kind}, so nothing is decided"
    return "" if speed.ci95 else "there is no interval, so nothing is decided"


def _gain_headline(title: str, gain: Gain) -> Headline:
    proven, worse = gain.verdict == "proven", gain.verdict == "worse"
    figure = f"{signed_points(gain.ap)} AP"
    return Headline(
        title,
        figure if proven else f"{figure}, {gain.verdict.split(' (')[0]}",
        gain_sentence(gain),
        "good" if proven else "bad" if worse else "neutral",
    )


def _speed_headline(speed: Speed, rows: Sequence[ReportRow]) -> Headline:
    scope = {"engine": "model with copies", "end_to_end": "end to end"}[speed.scope]
    interval, doubt = speed.ci95, speed_doubt(speed, rows)
    between = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    figure = f"{speed.ratio:.2f}\u00d7" if speed.verdict != "no change" else "no change"
    tone = {"faster": "good", "slower": "bad"}.get(speed.verdict, "neutral")
    return Headline(
        f"Speed, {scope}",
        "undecided" if doubt else figure,
        f"{speed.model} {'measured' if doubt else 'is'} {speed.ratio:.2f}{between} times as fast "
        f"as {speed.reference}: {doubt or speed.verdict}",
        "neutral" if doubt else tone,
    )


def _slow_int8(rows: Sequence[ReportRow]) -> list[str]:
    """Warn where INT8 is slower: both timings valid, their intervals disjoint."""
    found = []
    timed = [row for row in rows if row.latency_ms is not None and row.verdict == "valid"]
    for row in timed:
        for other in timed:
            same = (other.model, other.backend) == (row.model, row.backend)
            if not same or (row.precision, other.precision) != ("int8", "fp32"):
                continue
            assert row.latency_ms is not None
            assert other.latency_ms is not None
            int8, fp32 = row.latency_ms.engine, other.latency_ms.engine
            if int8.ci95_p50[0] > fp32.ci95_p50[1]:
                found.append(f"{row_title(row)} takes {_median(int8)} ms, fp32 {_median(fp32)} ms")
    return [f"INT8 is slower than FP32 here: {'; '.join(found)}."] if found else []


def _median(latency: Latency) -> str:
    low, high = latency.ci95_p50
    return f"{milliseconds(latency.p50)} [{milliseconds(low)}, {milliseconds(high)}]"


def _ap_of(rows: Sequence[ReportRow], model: str, backend: str | None) -> float | None:
    """Return AP of the first row of `model` (on `backend`, if given)."""
    for row in rows:
        if row.model == model and backend in (None, row.backend):
            return row.ap["AP"]
    return None


def _interval(interval: Sequence[float]) -> str:
    return f"{signed_points(interval[0])}, {signed_points(interval[1])}"
