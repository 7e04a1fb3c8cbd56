"""The report of one run: `report.json` is the contract, everything else is drawn from it."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from benchmarks.accuracy.coco_map import COCO_NAMES
from benchmarks.accuracy.deployed import Deployed
from benchmarks.accuracy.metric import MetricValues
from benchmarks.report.html import html_page
from benchmarks.report.markdown import markdown_page
from benchmarks.report.plots import draw_plots
from benchmarks.report.story import headline_sentence, waterfall
from benchmarks.report.text import derived_warnings
from export.atomic import write_json, write_text
from export.errors import MissingDependencyError, ToolkitError


class _Part(BaseModel):
    """A part of the report; keys beyond the contract are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class ReportRow(_Part):
    """One measured artifact: accuracy and latency of the very same thing."""

    model: str  # teacher, baseline, baseline_equal_time, student
    backend: str
    precision: str
    artifact: str | None
    sha256: str | None
    size_mb: float | None
    parameters: int | None
    ap: dict[str, float | None]  # COCO's twelve, 0..1
    latency_ms: dict[str, Any] | None  # Timing.to_dict(); None: not measured
    predictions: str | None  # relative path of the COCO results
    verdict: str  # of the timing: valid, noisy: ..., throttled: ..., not measured
    metrics: dict[str, MetricValues] = Field(default_factory=dict)  # every entry of METRICS
    deployed: Deployed | None = None  # at the score threshold of use
    throughput: tuple[dict[str, Any], ...] = ()  # Throughput.to_dict() of each batch
    parity: dict[str, Any] = Field(
        default_factory=dict
    )  # against torch, see export/checks/parity.py
    certificate: dict[str, Any] | None = None  # shares of data types, by nodes and by time

    @field_validator("ap")
    @classmethod
    def _twelve_numbers(cls, ap: dict[str, float | None]) -> dict[str, float | None]:
        if set(ap) != set(COCO_NAMES):
            raise ValueError(f"expected exactly {', '.join(COCO_NAMES)}; got {', '.join(ap)}")
        for name, value in ap.items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected 0..1, or null where COCO gives -1")
        return {name: ap[name] for name in COCO_NAMES}


class Gain(_Part):
    """What distillation gained: AP of the student minus AP of the paired baseline, 0..1 scale."""

    ap: float  # mean over seeds
    ci95: tuple[float, float] | None  # over seeds; None for one seed
    seeds: int
    verdict: str  # of statistics.verdict
    per_seed: tuple[float, ...] = ()
    equal_time: "Gain | None" = None  # over the baseline trained as long as the student
    bootstrap: dict[str, Any] | None = None  # ap, ci95, samples over validation pictures


class TrainingRun(_Part):
    """How one model was trained. Each entry of `curve` has `step`, `AP` and loss terms by name."""

    model: str
    seed: int = 0
    curve: tuple[dict[str, float | None], ...] = ()
    steps: int | None = None
    seconds: float | None = None
    step_ms: float | None = None
    peak_memory_mb: float | None = None
    terms: tuple[dict[str, Any], ...] = ()  # step, name, value, ratio, gradient_ratio
    auto_weights: dict[str, float] = Field(default_factory=dict)  # by loss


class Speed(_Part):
    """`model` is `ratio` times as fast as `reference` (ratio of median times)."""

    model: str  # for instance `student onnxruntime int8`
    reference: str
    scope: Literal["engine", "end_to_end"]
    ratio: float
    ci95: tuple[float, float] | None
    verdict: str  # faster, slower, no change


class Picture(_Part):
    """A picture in the report's folder, `path` relative to it."""

    path: str
    caption: str


class ReportData(_Part):
    """Everything a report tells. Fields up to `rows` are the contract, the rest may be empty."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    environment: dict[str, Any]
    training: dict[str, TrainingRun] = Field(default_factory=dict)  # run name -> run
    gain: Gain | None = None  # None: there is no baseline to compare with
    rows: tuple[ReportRow, ...]
    speed: tuple[Speed, ...] = ()
    per_class: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    data: dict[str, Any] | str = ""
    recipe: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def write_report(data: ReportData, folder: Path) -> Path:
    """Write report.json, then plots, report.md and report.html from it; return the HTML's path.

    Warnings that the numbers themselves call for (a teacher worse than the baseline, an export
    that costs accuracy, noisy timings) are added to those given.
    """
    write_json(report_content(data), folder / "report.json")
    return render_report(folder)


def report_content(data: ReportData) -> dict[str, Any]:
    """What report.json holds: `data`, and what its numbers add up to.

    That is `headline`, `waterfall` and the warnings that they call for.
    """
    content = data.model_dump(mode="json", by_alias=True)
    content["headline"] = headline_sentence(content)
    content["waterfall"] = waterfall(content)
    content["warnings"] = list(dict.fromkeys([*content["warnings"], *derived_warnings(content)]))
    return content


def render_report(folder: Path) -> Path:
    """Draw plots, report.md and report.html anew from report.json alone; return the HTML's path.

    Raises:
        ToolkitError: report.json is missing or not a report.
    """
    source = folder / "report.json"
    try:
        given = json.loads(source.read_text(encoding="utf-8"))
        content = report_content(ReportData.model_validate(given))
    except (OSError, ValueError, ValidationError) as error:
        raise ToolkitError(f"{source}: not a readable report: {error}; run it again") from None
    try:
        plots = draw_plots(content, folder / "plots")
    except MissingDependencyError as error:
        plots = []
        content["notes"].append(f"No plots were drawn: {error}")
    write_text(markdown_page(content, plots, folder), folder / "report.md")
    return write_text(html_page(content, plots, folder), folder / "report.html")
