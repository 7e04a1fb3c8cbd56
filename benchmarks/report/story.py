"""What a report says first: one sentence, and where the accuracy went on its way to the device."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.text import (
    TITLES,
    Content,
    milliseconds,
    points,
    row_title,
    signed_points,
)

COMPARABLE = 0.01  # AP that a faster artifact may lack and still be the one to ship
ORDER = ("fp32", "fp16", "fp8", "int8", "int8-trt")


def headline_sentence(content: Content) -> str:
    """Accuracy, gain and speed of the artifact to ship, with their intervals; empty without one."""
    shipped = shipped_row(content["rows"])
    if shipped is None:
        return ""
    text = f"The {row_title(shipped)} reaches {points(shipped['ap']['AP'])} AP"
    teacher = _first(content["rows"], "teacher")
    if teacher is not None:
        apart = shipped["ap"]["AP"] - teacher["ap"]["AP"]
        if points(abs(apart)) == points(0):
            text += ", as much as the teacher"
        else:
            text += f", {points(abs(apart))} {'below' if apart < 0 else 'above'} the teacher"
    sentences = [text]
    gain = content["gain"]
    if gain:
        nothing = "" if gain["ap"] > 0 else "nothing: "
        text = f"Distillation gained {nothing}{_gain(gain)}"
        if gain.get("equal_time"):
            text += f"; over a baseline trained for as long, {_gain(gain['equal_time'])}"
        sentences.append(text)
    speed = _speed(content["speed"], shipped)
    if speed is not None:
        sentences.append(_speed_sentence(speed, shipped))
    return ". ".join(sentences) + "."


def _speed_sentence(speed: Content, shipped: Content) -> str:
    interval = speed["ci95"]
    between = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    times = f"{speed['ratio']:.2f}\u00d7{between} as fast as the {speed['reference']}"
    if speed["verdict"] == "no change":
        times += ", which is no change"
    latency = (shipped["latency_ms"] or {}).get("end_to_end")
    took = f": {milliseconds(latency['p50'])} ms at the median" if latency else ""
    doubt = "" if shipped["verdict"] == "valid" else f" (timing {_kind(shipped['verdict'])})"
    return f"End to end it is {times}{took}{doubt}"


def shipped_row(rows: Sequence[Content]) -> Content | None:
    """The student's fastest exported artifact whose AP is within 1 point of the best of them."""
    students = [
        row
        for row in rows
        if row["model"] == "student" and row["backend"] != "torch" and row["ap"]["AP"] is not None
    ]
    if not students:
        return None
    best = max(row["ap"]["AP"] for row in students)
    close = [row for row in students if row["ap"]["AP"] >= best - COMPARABLE]
    timed = [row for row in close if row["latency_ms"]]
    return min(timed, key=lambda row: row["latency_ms"]["end_to_end"]["p50"]) if timed else close[0]


def waterfall(content: Content) -> list[dict[str, Any]]:
    """AP step by step: teacher, baseline, student in torch, each artifact, and as deployed.

    Each stage has `title`, `model`, `ap`, and `change` against the stage that `against` names.
    Stages without a number are left out.
    """
    rows = content["rows"]
    stages: list[dict[str, Any]] = []

    def add(title: str, model: str, ap: float | None, against: str | None) -> str | None:
        if ap is None:
            return against
        before = {stage["title"]: stage["ap"] for stage in stages}.get(against or "")
        stages.append(
            {
                "title": title,
                "model": model,
                "ap": ap,
                "change": None if before is None else ap - before,
                "against": against if before is not None else None,
            }
        )
        return title

    before: str | None = None
    for model in ("teacher", "baseline"):
        row = _first(rows, model)
        if row is not None:
            before = add(TITLES[model], model, row["ap"]["AP"], before)
    in_torch = _first(rows, "student", backend="torch")
    if in_torch is not None:
        before = add("student, torch", "student", in_torch["ap"]["AP"], before)
    exported = sorted(
        (row for row in rows if row["model"] == "student" and row["backend"] != "torch"),
        key=lambda row: (
            row["backend"] != "onnxruntime",
            ORDER.index(row["precision"]) if row["precision"] in ORDER else len(ORDER),
        ),
    )
    reference = before
    for row in exported:
        title = f"student, {row['backend']} {row['precision']}"
        added = add(title, "student", row["ap"]["AP"], reference)
        if row["precision"] == "fp32" and row["backend"] == "onnxruntime":
            reference = added  # the other precisions are made of this file
    for row in exported:
        deployed = row.get("deployed")
        if deployed:
            title = f"student, {row['backend']} {row['precision']}"
            threshold = deployed["score_threshold"]
            add(f"{title}, scores from {threshold:g}", "student", deployed["ap"]["AP"], title)
    return stages


def _gain(gain: Content) -> str:
    seeds = gain["seeds"]
    text = f"{signed_points(gain['ap'])} AP"
    if gain["ci95"]:
        low, high = (signed_points(end) for end in gain["ci95"])
        return f"{text} [{low}, {high}] over {seeds} seeds ({gain['verdict']})"
    if gain.get("bootstrap"):
        low, high = (signed_points(end) for end in gain["bootstrap"]["ci95"])
        return f"{text} [{low}, {high} over validation pictures] on one seed, which is no proof"
    return f"{text} on one seed, which is no proof"


def _speed(speeds: Sequence[Content], row: Content) -> Content | None:
    title = f"{row['model']} {row['backend']} {row['precision']}"
    for speed in speeds:
        if speed["scope"] == "end_to_end" and speed["model"] in (title, row_title(row)):
            return speed
    return None


def _first(
    rows: Sequence[Content], model: str, *, backend: str | None = None
) -> Mapping[str, Any] | None:
    """The first measured row of `model`, an exported fp32 one if there is any."""
    found = [
        row
        for row in rows
        if row["model"] == model
        and row["ap"]["AP"] is not None
        and backend in (None, row["backend"])
    ]
    exported = [row for row in found if row["backend"] != "torch" and row["precision"] == "fp32"]
    return next(iter([*exported, *found]), None)


def _kind(verdict: str) -> str:
    return verdict.partition(":")[0]
