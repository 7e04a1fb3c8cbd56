"""Build the rows of a report, and write and read it: `report.json`, plots, Markdown and HTML."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from benchmarks.accuracy import COCO, SIZE
from benchmarks.accuracy.metric import MetricValues
from benchmarks.report.claims import derived_warnings
from benchmarks.report.headline import headline_sentence, waterfall
from benchmarks.report.html import html_page
from benchmarks.report.markdown import markdown_page
from benchmarks.report.plots import draw_plots
from benchmarks.report.schema import ReportData, ReportRow, Speed
from benchmarks.timing.latency import SpeedRatio
from benchmarks.timing.records import Timing
from export.artifact.bundle_content import strict_json
from export.artifact.manifest import Manifest, file_sha256
from export.atomic import write_json, write_text
from export.errors import MissingDependencyError, ToolkitError, printable
from export.reading.mistakes import all_described

NOT_MEASURED = "not measured: made for TensorRT"
NOT_JSON = "it is not JSON"


def report_row(
    manifest: Manifest, metrics: Mapping[str, MetricValues], timing: Timing | None, path: Path
) -> ReportRow:
    """Build the row of the artifact at `path`.

    `artifact` is `path` as given; `predictions`, `deployed`, `name` and `key` are left to the
    caller, who adds them with `model_copy`.

    Args:
        manifest: description of the artifact.
        metrics: values of every entry of `METRICS`, see `compute_metrics`.
        timing: latency and throughput; None for an artifact of another runtime.
        path: the file.
    """
    certificate = manifest.certificate
    return ReportRow(
        model=manifest.model,
        backend=manifest.backend,
        precision=manifest.precision,
        artifact=str(path),
        sha256=file_sha256(path),
        size_mb=metrics[SIZE].values[SIZE],
        parameters=manifest.parameters,
        ap=metrics[COCO].values,
        per_class=metrics[COCO].per_class,
        metrics=dict(metrics),
        latency_ms=None if timing is None else timing.latency_ms,
        predictions=None,
        verdict=NOT_MEASURED if timing is None else timing.verdict,
        throughput=() if timing is None else timing.throughput,
        parity=manifest.parity,
        certificate=None if certificate is None else certificate.model_dump(mode="json"),
        quantization=manifest.quantization,
        nms=manifest.nms.model_dump(mode="json"),
    )


def speed_of(
    model: str, reference: str, scope: Literal["engine", "end_to_end"], ratio: SpeedRatio
) -> Speed:
    """Build the entry that compares `model` with `reference`, both titles of rows."""
    return Speed(
        model=model,
        reference=reference,
        scope=scope,
        ratio=ratio.ratio,
        ci95=ratio.ci95,
        verdict=ratio.verdict,
    )


def write_report(data: ReportData, folder: Path) -> Path:
    """Write report.json, then plots, report.md and report.html from it; return the HTML's path."""
    content = complete(data).model_dump(mode="json", by_alias=True)
    write_json(content, folder / "report.json")
    return render_report(folder)


def complete(data: ReportData) -> ReportData:
    """Return `data` with everything that follows from its numbers.

    Adds the headline, the waterfall, and warnings (a teacher worse than the baseline, an export
    that costs accuracy, unreliable timings) after the given ones.
    """
    warnings = dict.fromkeys([*data.warnings, *derived_warnings(data)])
    added = {
        "headline": headline_sentence(data),
        "waterfall": waterfall(data),
        "warnings": tuple(warnings),
    }
    return data.model_copy(update=added)


def read_report(file: Path) -> ReportData:
    """Read a report.json strictly: neither text nor a truth value is taken for a number.

    Raises:
        ToolkitError: the file is missing or is not a report.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        strict_json(text)
        return ReportData.model_validate_json(text, strict=True)
    except ValidationError as error:
        unreadable = error.errors(include_url=False)[0]["type"] == "json_invalid"
        problem = NOT_JSON if unreadable else all_described(error)
    except OSError as error:
        problem = str(error.strerror)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):  # or nested too deeply
        problem = NOT_JSON
    except ValueError as error:  # a number or a key that no report has
        problem = printable(str(error))
    raise ToolkitError(f"{file}: not a readable report: {problem}; run it again")


def render_report(folder: Path) -> Path:
    """Draw plots, report.md and report.html from report.json; return the HTML's path.

    Raises:
        ToolkitError: report.json is missing or not a report.
    """
    data = complete(read_report(folder / "report.json"))
    try:
        plots = draw_plots(data, folder / "plots")
    except MissingDependencyError as error:
        plots = []
        data = data.model_copy(update={"notes": (*data.notes, f"No plots were drawn: {error}")})
    write_text(markdown_page(data, plots, folder), folder / "report.md")
    return write_text(html_page(data, plots, folder), folder / "report.html")
