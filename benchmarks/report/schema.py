"""The structure of `report.json`: one class per part; keys of other versions are kept."""

from typing import Literal

from pydantic import Field, JsonValue, field_validator

from benchmarks.accuracy.coco_map import COCO_NAMES
from benchmarks.accuracy.deployed import Deployed
from benchmarks.accuracy.gain_statistics import BootstrapGain
from benchmarks.accuracy.metric import MetricValues
from benchmarks.record import Record
from benchmarks.timing.records import Latencies, Throughput
from benchmarks.timing.step_ratio import StepRatio
from benchmarks.timing.timed_curves import TimedCurves
from export.reading.mistakes import brief


class ReportRow(Record):
    """Accuracy and latency of one artifact, both measured on the same file.

    Attributes:
        model: teacher, baseline, baseline_equal_time or student.
        name: name of the trained model; teachers are numbered by it.
        key: name of the row's folder in the run.
        artifact: path relative to the report, or as given on the command line.
        ap: COCO's twelve metrics, 0..1; None where COCO gives -1.
        seed_aps: AP of the same artifact of every seed, this row's first; empty for one seed.
        per_class: AP by class name.
        metrics: values of every entry of `METRICS`, by its name.
        latency_ms: None where it was not measured.
        predictions: path of the detections relative to the report, in COCO's results format.
        verdict: `valid`; `noisy: ...`, `throttled: ...` or `not measured: ...` with the reasons.
        deployed: accuracy at the score threshold of use.
        parity: difference from torch, see `export/checks/parity.py`.
        certificate: data types that the artifact computes in, by nodes and by time.
        quantization: record of the quantiser.
        nms: settings of non-maximum suppression.
    """

    model: str
    name: str | None = None
    key: str | None = None
    backend: str
    precision: str
    artifact: str | None
    sha256: str | None
    size_mb: float | None
    parameters: int | None
    ap: dict[str, float | None]
    seed_aps: tuple[float, ...] = ()
    per_class: dict[str, float | None] = Field(default_factory=dict)
    metrics: dict[str, MetricValues] = Field(default_factory=dict)
    latency_ms: Latencies | None
    predictions: str | None
    verdict: str
    deployed: Deployed | None = None
    throughput: tuple[Throughput, ...] = ()
    parity: dict[str, JsonValue] = Field(default_factory=dict)
    certificate: dict[str, JsonValue] | None = None
    quantization: dict[str, JsonValue] = Field(default_factory=dict)
    nms: dict[str, JsonValue] | None = None

    @field_validator("ap")
    @classmethod
    def _twelve_numbers(cls, ap: dict[str, float | None]) -> dict[str, float | None]:
        if set(ap) != set(COCO_NAMES):
            found = ", ".join(ap) if ap else "none of them"
            raise ValueError(f"expected exactly {', '.join(COCO_NAMES)}; got {found}")
        for name, value in ap.items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected 0..1, or null where COCO gives -1")
        return {name: ap[name] for name in COCO_NAMES}


class Gain(Record):
    """AP of the student minus AP of the paired baseline, 0..1 scale.

    Attributes:
        ap: mean over seeds.
        ci95: 95 % interval over seeds; None for one seed.
        verdict: result of `gain_statistics.verdict`.
        per_seed: the difference of each seed.
        equal_time: gain over the baseline that was trained for as long as the student.
        bootstrap: interval over validation pictures; for one seed only.
    """

    ap: float
    ci95: tuple[float, float] | None
    seeds: int
    verdict: str
    per_seed: tuple[float, ...] = ()
    equal_time: "Gain | None" = None
    bootstrap: BootstrapGain | None = None


class TermSize(Record):
    """Size of one distillation term at one step, relative to the task loss.

    Attributes:
        name: `<loss>/<term>`.
        value: the weighted term.
        ratio: value / task loss.
        gradient_ratio: norm of the term's gradient at the student's shared features / norm of the
            task loss's gradient there.
    """

    step: int | None = None
    name: str
    value: float | None = None
    ratio: float | None = None
    gradient_ratio: float | None = None


class TrainingRun(Record):
    """Training of one model.

    Attributes:
        curve: one entry per evaluation with `step`, `AP` and the loss terms by name.
        seconds: None for weights that were loaded.
        terms: sizes of the distillation terms, step by step.
        terms_at_first_step: sizes at the first step; the only ones in reports of version 0.1.
        auto_weights: weight that `weight: auto` chose, by loss.
    """

    model: str
    seed: int = 0
    curve: tuple[dict[str, float | None], ...] = ()
    steps: int | None = None
    seconds: float | None = None
    step_ms: float | None = None
    peak_memory_mb: float | None = None
    terms: tuple[TermSize, ...] = ()
    terms_at_first_step: tuple[TermSize, ...] = ()
    auto_weights: dict[str, float] = Field(default_factory=dict)


class Speed(Record):
    """How many times as fast `model` is as `reference` (ratio of median times).

    Attributes:
        model: title of a row, for instance `student onnxruntime int8`.
        verdict: faster, slower or no change.
    """

    model: str
    reference: str
    scope: Literal["engine", "end_to_end"]
    ratio: float
    ci95: tuple[float, float] | None
    verdict: str


class Picture(Record):
    """A picture in the report's folder; `path` is relative to it."""

    path: str
    caption: str


class Stage(Record):
    """One bar of the waterfall: AP at one step from the teacher to the device.

    Attributes:
        change: AP minus that of the stage named by `against`; None for the first.
    """

    title: str
    model: str
    ap: float
    change: float | None
    against: str | None


class ReportData(Record):
    """Content of `report.json`.

    Attributes:
        environment: machine and packages.
        preprocessing: version of the contract by which pictures became inputs; None in reports of
            before there was one, when JPEGs were decoded at a fraction of their size.
        training: training runs by name.
        gain: None if there is no baseline.
        equal_time: cost of a distilled step in plain ones; None if it was not measured.
        timed: AP of plain and distilled trainings against time; None where it was not recorded.
        per_class: AP by class name, by title of the row.
        data: record of the data check, or text.
        recipe: text of the recipe.
        warnings: the given warnings and those that `complete` adds.
        headline: sentence that `complete` adds.
        waterfall: stages that `complete` adds.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    environment: dict[str, JsonValue]
    preprocessing: int | None = None
    training: dict[str, TrainingRun] = Field(default_factory=dict)
    gain: Gain | None = None
    equal_time: StepRatio | None = None
    timed: TimedCurves | None = None
    rows: tuple[ReportRow, ...]
    speed: tuple[Speed, ...] = ()
    per_class: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    data: dict[str, JsonValue] | str = ""
    recipe: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    headline: str = ""
    waterfall: tuple[Stage, ...] = ()

    @field_validator("schema_version", mode="before")
    @classmethod
    def _whole(cls, version: object) -> object:
        if type(version) is not int:  # true equals 1
            raise ValueError(f"expected 1, found {brief(version)}")
        return version
