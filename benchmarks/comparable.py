"""Whether the figures of two reports can be compared, and the reasons why not."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from export.errors import counted

if TYPE_CHECKING:
    from pydantic import JsonValue

    from benchmarks.report.schema import ReportData, ReportRow

MOST_SHOWN = 4  # differences of validation sets in a message


def other_pictures(before: "ReportData", after: "ReportData") -> str | None:
    """Return how the validation sets of two reports differ; None where they agree.

    Compares the numbers of pictures and boxes that both state, not paths: the same set may lie
    elsewhere. A report without a record of its data, as `slimdet bench` wrote it before, has the
    data's name and number of pictures in its own name, and the classes in its rows.
    """
    if isinstance(before.data, str) and isinstance(after.data, str):
        return _other_name(before, after)
    if _is_earlier_form(before, after) or _is_earlier_form(after, before):
        return _other_classes(before, after)
    old, new = _validation_set(before), _validation_set(after)
    for where, found in (("first", old), ("second", new)):
        if not found:
            return f"the {where} report does not state the pictures that it was measured on"
    both = [kind for kind in old if kind in new]
    if not both:
        return "the reports state no figure of their validation sets that both have"
    differing = [
        f"{what} {old[kind].get(what, 0)} and {new[kind].get(what, 0)}"
        for kind in both
        for what in dict.fromkeys([*old[kind], *new[kind]])
        if old[kind].get(what, 0) != new[kind].get(what, 0)
    ]
    if differing:
        return f"the validation sets differ: {few(differing)}"
    return _other_classes(before, after)


def other_preprocessing(before: "ReportData", after: "ReportData") -> str | None:
    """Return how the contracts differ by which pictures became inputs; None where they agree."""
    old, new = (
        "an unstated version" if one.preprocessing is None else f"version {one.preprocessing}"
        for one in (before, after)
    )
    return None if old == new else f"the reports differ in preprocessing: {old} and {new}"


def other_machine(before: "ReportData", after: "ReportData", part: str) -> str | None:
    """Return how the machines of two reports differ in `cpu` or `gpus`; None where they agree."""
    old, new = (_model(one.environment.get(part)) for one in (before, after))
    if old == new:
        return None
    return f"{part.removesuffix('s')} {old or 'not stated'} and {new or 'not stated'}"


def _model(part: "JsonValue") -> str:
    if isinstance(part, dict):
        cores = part.get("logical_cores")
        name = str(part.get("model") or part.get("name") or part)
        return name if cores is None else f"{name} with {cores} cores"
    return ", ".join(map(_model, part)) if isinstance(part, list) else str(part or "")


def other_conditions(
    before: "ReportData", after: "ReportData", old: "ReportRow", new: "ReportRow"
) -> str | None:
    """Return how two rows were timed differently; None where they agree or were not timed."""
    one, two = old.latency_ms, new.latency_ms
    if one is None or two is None:
        return None
    devices = [
        timing.device or report.environment.get("device")
        for timing, report in ((one, before), (two, after))
    ]
    for name, sides in (
        ("batch", (one.batch, two.batch)),
        ("device", devices),
        ("score threshold", (one.score_threshold, two.score_threshold)),
    ):
        if sides[0] != sides[1]:
            return f"{name} {sides[0]} and {sides[1]}"
    if not _model(before.environment.get("cpu")):
        return other_machine(before, after, "cpu") or "processors that are not stated"
    parts = ("cpu",) if devices[0] == "cpu" else ("cpu", "gpus")
    found = (other_machine(before, after, part) for part in parts)
    return next(filter(None, found), None)


def _other_name(before: "ReportData", after: "ReportData") -> str | None:
    old, new = ((str(one.data), one.name) for one in (before, after))
    if old != new:
        names = " and ".join(repr(", ".join(filter(None, one))) for one in (old, new))
        return f"the reports name different data: {names}"
    if not before.data and not re.search(r", [0-9]+ pictures?$", before.name):
        return "the reports do not state the pictures that they were measured on"
    return _other_classes(before, after)


def _is_earlier_form(old: "ReportData", new: "ReportData") -> bool:
    """Whether two benchmarks name the same data, and `old` alone has no record of it."""
    pictures = _validation_set(new).get("pictures", {}).get("pictures")
    if pictures is None or old.data:
        return False
    return old.name == new.name and new.name.endswith(f", {counted(pictures, 'picture')}")


def _other_classes(before: "ReportData", after: "ReportData") -> str | None:
    classes = [{name for row in one.rows for name in row.per_class} for one in (before, after)]
    if all(classes) and classes[0] != classes[1]:
        return f"the reports have different classes: {few(sorted(classes[0] ^ classes[1]))}"
    return None


def _validation_set(report: "ReportData") -> dict[str, dict[str, int]]:
    """Return the numbers that a report states of its validation set, by kind and name.

    That is `val` of a run, and of a benchmark the one split that it measured.
    """
    splits = report.data.get("splits") if isinstance(report.data, dict) else None
    if not isinstance(splits, dict):
        return {}
    found = next(iter(splits.values())) if len(splits) == 1 else splits.get("val")
    if not isinstance(found, dict):
        return {}
    classes = found.get("boxes_per_class")
    by_class = classes if isinstance(classes, dict) else {}
    stated = {
        "pictures": {"pictures": found.get("images")},
        "boxes": {"boxes": found.get("boxes")},
        "classes": {f"boxes of {name}": count for name, count in by_class.items()},
    }
    numbers = {
        kind: {what: count for what, count in counts.items() if type(count) is int}
        for kind, counts in stated.items()
    }
    return {kind: counts for kind, counts in numbers.items() if counts}


def few(texts: Sequence[str]) -> str:
    """Join the first few texts, and count the others."""
    more = len(texts) - MOST_SHOWN
    return ", ".join(texts[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
