"""The headline sentence of a report and its AP waterfall."""

from collections.abc import Sequence

from benchmarks.report.claims import outcome_sentence, speed_doubt
from benchmarks.report.schema import ReportData, ReportRow, Speed, Stage
from benchmarks.report.seeds import over_seeds
from benchmarks.report.text import TITLES, milliseconds, points, row_title
from export.backends import BACKENDS

COMPARABLE = 0.01  # AP by which the artifact to ship may be below the best one
ORDER = ("fp32", "fp16", "fp8", "int8", "int8-trt")


def headline_sentence(data: ReportData) -> str:
    """Return who won, and accuracy and speed of the artifact to ship; "" without such an artifact.

    The first sentence is on distilled against plain training, where both were done.
    """
    shipped = shipped_row(data.rows)
    if shipped is None:
        return ""
    sentences = [outcome_sentence(data.gain)] if data.gain else []
    text = f"The {row_title(shipped)} reaches {points(shipped.ap['AP'])} AP"
    teacher = _first(data.rows, "teacher")
    if teacher is not None:
        text += f" (the teacher {points(teacher.ap['AP'])})"
    exported = _first(data.rows, "student")
    seeds = over_seeds(exported, data) if exported else None
    if seeds is not None:
        over = f"{points(seeds.mean)} \u00b1 {points(seeds.deviation)} AP over {seeds.count} seeds"
        text += f"; the student in fp32 has {over}"
    sentences.append(text)
    speed = _speed(data.speed, shipped)
    if speed is not None:
        sentences.append(_speed_sentence(speed, shipped, data.rows))
    return ". ".join(sentences) + "."


def _speed_sentence(speed: Speed, shipped: ReportRow, rows: Sequence[ReportRow]) -> str:
    interval, doubt = speed.ci95, speed_doubt(speed, rows)
    between = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    times = f"{speed.ratio:.2f}\u00d7{between} as fast as the {speed.reference}"
    if doubt:
        times += f" ({doubt})"
    elif speed.verdict == "no change":
        times += " (no significant change)"
    latency = shipped.latency_ms
    took = f": {milliseconds(latency.end_to_end.p50)} ms at the median" if latency else ""
    return f"End to end it {'measured' if doubt else 'is'} {times}{took}"


def shipped_row(rows: Sequence[ReportRow]) -> ReportRow | None:
    """Return the student's fastest exported artifact with an AP within 1 point of the best."""
    students = [
        (ap, row)
        for row in rows
        if row.model == "student" and row.backend != "torch" and (ap := row.ap["AP"]) is not None
    ]
    if not students:
        return None
    best = max(ap for ap, _ in students)
    close = [row for ap, row in students if ap >= best - COMPARABLE]
    timed = [
        (row.latency_ms.end_to_end.p50, number)
        for number, row in enumerate(close)
        if row.latency_ms is not None
    ]
    return close[min(timed)[1]] if timed else close[0]


def waterfall(data: ReportData) -> tuple[Stage, ...]:
    """Return AP step by step: teacher, baseline, student in torch, each artifact, and as deployed.

    With several seeds baseline and student are their means, and the artifacts, which are those of
    the first seed, are compared with that seed's student. Rows without AP are left out.
    """
    rows, stages = data.rows, list[Stage]()

    def add(title: str, model: str, ap: float | None, against: str | None) -> str | None:
        if ap is None:
            return against
        before = {stage.title: stage.ap for stage in stages}.get(against or "")
        stages.append(
            Stage(
                title=title,
                model=model,
                ap=ap,
                change=None if before is None else ap - before,
                against=against if before is not None else None,
            )
        )
        return title

    before, seed = None, ""
    for model in ("teacher", "baseline", "student"):
        row = _first(rows, model)
        seeds = over_seeds(row, data) if row is not None else None
        if row is not None and seeds is not None:
            title = f"{TITLES[model]}, mean of {seeds.count} seeds"
            before = add(title, model, seeds.mean, before)
        elif row is not None and model != "student":
            before = add(TITLES[model], model, row.ap["AP"], before)
        if seeds is not None and model == "student":
            before, seed = None, ", first seed"
    in_torch = _first(rows, "student", backend="torch")
    if in_torch is not None:
        before = add(f"student, torch{seed}", "student", in_torch.ap["AP"], before)
    exported = sorted(
        (row for row in rows if row.model == "student" and row.backend != "torch"),
        key=lambda row: (
            not _runs_graphs(row),
            ORDER.index(row.precision) if row.precision in ORDER else len(ORDER),
        ),
    )
    reference = before
    for row in exported:
        title = f"student, {row.backend} {row.precision}{seed}"
        added = add(title, "student", row.ap["AP"], reference)
        if row.precision == "fp32" and _runs_graphs(row):
            reference = added  # the other precisions are made from this file
    for row in exported:
        if row.deployed:
            title = f"student, {row.backend} {row.precision}{seed}"
            threshold = row.deployed.score_threshold
            add(f"{title}, scores from {threshold:g}", "student", row.deployed.ap["AP"], title)
    return tuple(stages)


def _runs_graphs(row: ReportRow) -> bool:
    """Return whether the row's artifact is an ONNX file."""
    backend = BACKENDS.get(row.backend)
    return backend is not None and backend.runs_graphs


def _speed(speeds: Sequence[Speed], row: ReportRow) -> Speed | None:
    title = f"{row.model} {row.backend} {row.precision}"
    for speed in speeds:
        if speed.scope == "end_to_end" and speed.model in (title, row_title(row)):
            return speed
    return None


def _first(
    rows: Sequence[ReportRow], model: str, *, backend: str | None = None
) -> ReportRow | None:
    """Return the first row of `model` that has AP, an exported fp32 one if there is any."""
    found = [
        row
        for row in rows
        if row.model == model and row.ap["AP"] is not None and backend in (None, row.backend)
    ]
    exported = [row for row in found if row.backend != "torch" and row.precision == "fp32"]
    return next(iter([*exported, *found]), None)
