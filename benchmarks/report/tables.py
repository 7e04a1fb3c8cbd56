"""Tables of a report below the results, the same in every format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from benchmarks.accuracy import COCO, SIZE
from benchmarks.report.schema import ReportData, ReportRow, Stage, TermSize
from benchmarks.report.text import (
    ABSENT,
    facts,
    milliseconds,
    points,
    row_title,
    signed_points,
)
from benchmarks.timing.clocks import describe
from benchmarks.timing.throughput import INCLUSIONS as THROUGHPUT_INCLUSIONS

SIZES = ("AP_S", "AP_M", "AP_L", "AR_S", "AR_M", "AR_L")
SIZE_NOTE = (
    "COCO's sizes, in pixels of the photograph: small below 32\u00b2, medium to 96\u00b2, large "
    "above. AR: average recall with 100 detections per picture."
)


@dataclass(frozen=True)
class Table:
    """Text in rows and columns.

    Attributes:
        numeric: indices of the columns that hold figures.
        notes: lines below the table.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int]
    notes: tuple[str, ...] = ()


def accuracy_tables(data: ReportData) -> list[Table]:
    """Return the tables of the chapter on accuracy that have values."""
    return [
        table
        for table in (
            waterfall_table(data.waterfall),
            size_table(data),
            deployed_table(data),
            metric_table(data),
            class_table(data),
        )
        if table is not None
    ]


def timing_tables(data: ReportData) -> list[Table]:
    """Return the tables of the chapter on timing that have values."""
    found = (scope_table(data), throughput_table(data), watch_table(data))
    return [table for table in found if table is not None]


def trust_tables(data: ReportData) -> list[Table]:
    """Return the tables on parity with torch and on precision that have values."""
    found = (parity_table(data), band_table(data), certificate_table(data))
    return [table for table in found if table is not None]


def waterfall_table(stages: Sequence[Stage]) -> Table | None:
    """Return AP stage by stage, from the teacher to the device."""
    if len(stages) < 2:
        return None
    rows = tuple(
        (
            stage.title,
            points(stage.ap, 2),
            ABSENT if stage.change is None else signed_points(stage.change, 2),
            stage.against or "",
        )
        for stage in stages
    )
    return Table(
        "From trained model to device",
        ("stage", "AP", "change", "against"),
        rows,
        frozenset({1, 2}),
    )


def size_table(data: ReportData) -> Table | None:
    """Return AP and AR by object size."""
    rows = [(row_title(row), *(points(row.ap[name]) for name in SIZES)) for row in data.rows]
    header = ("row", *(name.replace("_", " ") for name in SIZES))
    return Table("By object size", header, tuple(rows), frozenset(range(1, 7)), (SIZE_NOTE,))


def deployed_table(data: ReportData) -> Table | None:
    """Return AP at the score threshold of use."""
    rows = []
    for row in data.rows:
        found = row.deployed
        if found:
            ap, full = found.ap, row.ap["AP"]
            at_use = ap["AP"]
            change = ABSENT if at_use is None or full is None else signed_points(at_use - full)
            rows.append(
                (
                    row_title(row),
                    f"{found.score_threshold:g}",
                    points(at_use),
                    change,
                    points(ap["AP50"]),
                    points(ap["AR100"]),
                    f"{found.detections_per_picture:.1f}",
                )
            )
    if not rows:
        return None
    header = ("row", "scores from", "AP", "change", "AP50", "AR100", "detections per picture")
    note = "COCO's metrics without the boxes that score below the threshold of use."
    return Table("As deployed", header, tuple(rows), frozenset(range(1, 7)), (note,))


def metric_table(data: ReportData) -> Table | None:
    """Return the values of the metrics that have no column in the table of results."""
    rows = [(row_title(row), _other_metrics(row)) for row in data.rows]
    header = list(dict.fromkeys(name for _, found in rows for name in found))
    if not header:
        return None
    cells = tuple((title, *(_figure(found.get(name)) for name in header)) for title, found in rows)
    return Table("Further metrics", ("row", *header), cells, frozenset(range(1, len(header) + 1)))


def _other_metrics(row: ReportRow) -> dict[str, float | None]:
    """Return values by column name: metric and value, or one of them where both are equal."""
    return {
        value if value == name else f"{name} {value}": number
        for name, metric in row.metrics.items()
        if name not in (COCO, SIZE)
        for value, number in metric.values.items()
    }


def class_table(data: ReportData) -> Table | None:
    """Return AP by class, a column per exported row."""
    columns = data.per_class
    if not columns:
        return None
    classes = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = tuple(
        (name, *(points(column.get(name)) for column in columns.values())) for name in classes
    )
    header = ("class", *(title.replace("_", " ") for title in columns))
    return Table("By class", header, rows, frozenset(range(1, len(header))))


def scope_table(data: ReportData) -> Table | None:
    """Return all quantiles of the latency by scope."""
    rows = []
    notes: dict[str, None] = {}
    for row in data.rows:
        latency = row.latency_ms
        if latency is None:
            continue
        if latency.model is None and latency.model_scope:
            notes[f"{row_title(row)}, model: {latency.model_scope}."] = None
        scopes = {
            "model": latency.model,
            "model with copies": latency.engine,
            "end to end": latency.end_to_end,
        }
        for title, found in scopes.items():
            if found is not None:
                quartiles = (found.min, found.p25, found.p50, found.p75)
                low, high = found.ci95_p50
                rows.append(
                    (
                        row_title(row),
                        title,
                        *map(milliseconds, quartiles),
                        f"{milliseconds(low)} to {milliseconds(high)}",
                        milliseconds(found.p90),
                        milliseconds(found.p99),
                        str(found.n),
                    )
                )
    if not rows:
        return None
    header = ("row", "scope", "min", "p25", "p50", "p75", "p50, 95\u00a0%", "p90", "p99", "calls")
    return Table(
        "Latency by scope, ms", header, tuple(rows), frozenset(range(2, 10)), _merged(list(notes))
    )


def throughput_table(data: ReportData) -> Table | None:
    """Return pictures per second by batch."""
    measured = {row_title(row): row.throughput for row in data.rows if row.throughput}
    if not measured:
        return None
    batches = sorted({entry.batch for entries in measured.values() for entry in entries})
    rows = []
    for title, entries in measured.items():
        found = {entry.batch: f"{entry.images_per_s:.0f}" for entry in entries}
        rows.append((title, *(found.get(batch, "not measured") for batch in batches)))
    header = ("row", *(f"batch {batch}" for batch in batches))
    numeric = frozenset(range(1, len(header)))
    return Table(
        "Throughput, pictures per second", header, tuple(rows), numeric, (THROUGHPUT_INCLUSIONS,)
    )


def watch_table(data: ReportData) -> Table | None:
    """Return clocks, load and GPU while the calls were timed."""
    rows = []
    gpus: dict[str, None] = {}
    for row in data.rows:
        latency = row.latency_ms
        if latency is None:
            rows.append((row_title(row), ABSENT, ABSENT, ABSENT, "not measured", row.verdict))
        elif latency.watch is not None:
            watch, energy = latency.watch, latency.watch.energy_mj_per_picture
            share = watch.others_share
            gpus[watch.gpu] = None
            rows.append(
                (
                    row_title(row),
                    latency.device or ABSENT,
                    describe(watch.ranges) or ABSENT,
                    ABSENT if share is None else f"{share:.0%}",
                    "not measured" if energy is None else f"{energy:.1f}",
                    row.verdict,
                )
            )
    if all(row.latency_ms is None for row in data.rows) or not rows:
        return None
    header = ("row", "device", "clocks", "other programs", "mJ per picture", "verdict")
    notes = tuple(f"GPU: {said}." for said in gpus)
    return Table("Machine while timing", header, tuple(rows), frozenset({3, 4}), notes)


def parity_table(data: ReportData) -> Table | None:
    """Return how the detections of each artifact differ from torch's."""
    rows = [(row_title(row), row.parity) for row in data.rows]
    found = [(title, _scalars(parity)) for title, parity in rows if _scalars(parity)]
    if not found:
        return None
    keys = list(dict.fromkeys(key for _, parity in found for key in parity))
    header = ("row", *(key.replace("_", " ") for key in keys))
    cells = tuple((title, *(_figure(parity.get(key)) for key in keys)) for title, parity in found)
    note = "Detections of the artifact matched with torch's on the same photographs."
    return Table("Parity with torch", header, cells, frozenset(range(1, len(header))), (note,))


def band_table(data: ReportData) -> Table | None:
    """Return missing and extra boxes by score band."""
    rows = []
    for row in data.rows:
        bands = row.parity.get("bands")
        for band in bands if isinstance(bands, list) else []:
            if isinstance(band, dict):
                rest = [value for key, value in band.items() if key not in ("from", "to")]
                scores = f"{_figure(band.get('from'))} to {_figure(band.get('to'))}"
                rows.append((row_title(row), scores, *(_figure(value) for value in rest)))
                names = [key for key in band if key not in ("from", "to")]
    if not rows or len({len(row) for row in rows}) > 1:
        return None
    header = ("row", "scores", *(name.replace("_", " ") for name in names))
    return Table("Parity by score", header, tuple(rows), frozenset(range(2, len(header))))


def certificate_table(data: ReportData) -> Table | None:
    """Return the shares of data types from the certificate of each artifact."""
    rows = []
    for row in data.rows:
        for where, found in (row.certificate or {}).items():
            title = where.replace("_", " ")
            if isinstance(found, dict) and found and not _nested(found):
                rows.append((row_title(row), title, shares(found)))
            elif found not in (None, {}, []):
                said = "; ".join(f"{k} {v}".strip() for k, v in facts({"": found}))
                rows.append((row_title(row), title, said))
    if not rows:
        return None
    note = (
        "Data types that an artifact computes in: by nodes of its graph, and by measured time "
        "where the runtime reports it."
    )
    return Table(
        "Precision certificates", ("row", "part", "data types"), tuple(rows), frozenset(), (note,)
    )


def shares(parts: Mapping[str, JsonValue]) -> str:
    """Format shares as `int8 80.0 %, float32 20.0 %`, and counts with the share they make."""
    numbers = {k: v for k, v in parts.items() if isinstance(v, int | float)}
    total = sum(numbers.values())
    if len(numbers) < len(parts) or total <= 0 or min(numbers.values()) < 0:
        return ", ".join(f"{key} {_figure(value)}" for key, value in parts.items())
    counted = all(isinstance(value, int) for value in numbers.values())
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{key} {100 * value / total:.1f}\u00a0%" + (f" ({value})" if counted else "")
        for key, value in ordered
    )


def terms_table(data: ReportData) -> Table | None:
    """Return each distillation term relative to the task loss, first and last, and its weight."""
    rows = []
    for name, run in data.training.items():
        terms: dict[str, list[TermSize]] = {}
        for entry in run.terms or run.terms_at_first_step:
            terms.setdefault(entry.name, []).append(entry)
        for term, entries in terms.items():
            weight = run.auto_weights.get(term, run.auto_weights.get(term.split("/")[0]))
            first, last = entries[0], entries[-1]
            rows.append(
                (
                    name,
                    term,
                    *(_figure(entry.ratio) for entry in (first, last)),
                    *(_figure(entry.gradient_ratio) for entry in (first, last)),
                    "fixed" if weight is None else _figure(weight),
                )
            )
    if not rows:
        return None
    header = (
        *("run", "term", "loss ratio, first", "last"),
        *("gradient ratio, first", "last", "automatic weight"),
    )
    note = (
        "Loss ratio: weighted term / task loss. Gradient ratio: norm of its gradient at the "
        "student's shared features / norm of the task loss's gradient there."
    )
    return Table("Distillation terms", header, tuple(rows), frozenset(range(2, 7)), (note,))


def _nested(found: Mapping[str, JsonValue]) -> bool:
    return any(isinstance(value, Mapping | list) for value in found.values())


def _scalars(parity: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {key: value for key, value in parity.items() if not isinstance(value, Mapping | list)}


def _figure(value: JsonValue) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.3g}"
    return str(value)


def _merged(notes: list[str]) -> tuple[str, ...]:
    """Merge the notes into one where all rows have the same."""
    said = dict.fromkeys(note.partition(", model: ")[2] for note in notes)
    return tuple(notes) if len(said) > 1 else tuple(f"Model without copies: {one}" for one in said)
