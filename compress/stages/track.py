"""Send a run's settings and its finished report to the recipe's trackers."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.gates import load_report
from benchmarks.report.schema import ReportData
from compress.recipe import Recipe
from compress.stages.session import Session
from compress.tracking.open import open_trackers
from compress.tracking.tracker import Experiment, Trackers
from export.atomic import write_json

SENT = "tracked.json"  # in the report's folder: the trackers that received it
FILES = ("report.json", "report.html")


def run_trackers(session: Session, recipe: Recipe) -> Trackers:
    """Return the trackers that the recipe names, for the first process of the run."""
    experiment = Experiment(recipe.name, session.home, recipe.resolved())
    return open_trackers(recipe.track, experiment, session.console)


def track_report(trackers: Trackers, report: Path) -> None:
    """Send the finished report to every tracker that does not have it yet."""
    record = report / SENT
    sent = set[str]()
    # without the record, they receive all again
    with suppress(OSError, ValueError, TypeError, RecursionError):
        sent = set(map(str, json.loads(record.read_text(encoding="utf-8"))))
    figures = dict(report_figures(load_report(report)))
    done = trackers.report(figures, [report / name for name in FILES], without=sent)
    if done:
        write_json(sorted(sent | done), record)


def report_figures(report: ReportData) -> Iterator[tuple[str, float]]:
    """Yield the figures of a report that compare runs: accuracy, size, latency, gain."""
    for row in report.rows:
        key, latency = row.key or f"{row.model}-{row.backend}-{row.precision}", row.latency_ms
        figures = {
            **row.ap,
            "size_mb": row.size_mb,
            "engine_ms_p50": None if latency is None else latency.engine.p50,
            "end_to_end_ms_p50": None if latency is None else latency.end_to_end.p50,
        }
        yield from ((f"{key}/{name}", v) for name, v in figures.items() if v is not None)
    if report.gain is not None:
        yield "gain/AP", report.gain.ap
