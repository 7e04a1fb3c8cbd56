import json
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic import ValidationError

from benchmarks.accuracy.coco_map import COCO_NAMES
from benchmarks.report.content import complete, render_report, write_report
from benchmarks.report.html import html_page
from benchmarks.report.markdown import markdown_page
from benchmarks.report.plots import pareto_front, spread
from benchmarks.report.samples import sample_grid, sample_pictures
from benchmarks.report.schema import Gain, Picture, ReportData, ReportRow, Speed, TrainingRun
from benchmarks.report.text import milliseconds, parameter_count, points, signed_points
from benchmarks.timing.latency import BenchmarkConfig, measure
from benchmarks.timing.timed_curves import TimedCurve, TimedCurves
from export.errors import ToolkitError
from tests.benchmarks.bright_boxes import BrightEngine, bright_set

SHORT = BenchmarkConfig(blocks=2, calls_per_block=2, warmup=1, images=1)


def row(model: str, ap: float, *, backend="torch", precision="fp32", verdict="valid", latency=None):
    return ReportRow(
        model=model,
        backend=backend,
        precision=precision,
        artifact=None,
        sha256=None,
        size_mb=None,
        parameters=203_456,
        ap={name: None if name == "AP_L" else ap for name in COCO_NAMES},
        latency_ms=latency,
        predictions=f"predictions/{model}.json",
        verdict=verdict,
    )


def report(*rows: ReportRow, **fields) -> ReportData:
    given = rows or (row("teacher", 0.7), row("baseline", 0.5), row("student", 0.6))
    return ReportData(
        name="a <b>run</b>", environment={"cpu": {"model": "x"}}, rows=given, **fields
    )


GAIN = Gain(ap=0.1, ci95=(0.08, 0.12), seeds=3, verdict="proven", per_seed=(0.1, 0.09, 0.11))


def pages(data: ReportData, folder: Path) -> tuple[dict[str, Any], str, str]:
    """Return report.json, Markdown and HTML without their plots, which take a second."""
    data = complete(data)
    content = data.model_dump(mode="json", by_alias=True)
    return content, markdown_page(data, [], folder), html_page(data, [], folder)


def written(data: ReportData, folder: Path) -> tuple[str, str]:
    """Write a whole report and return its Markdown and HTML."""
    page = write_report(data, folder)
    assert page == folder / "report.html"
    return (folder / "report.md").read_text(), page.read_text()


@pytest.mark.slow
def test_report_json_has_the_keys_of_the_contract(tmp_path):
    with BrightEngine() as engine:
        timing = measure({"only": engine}, bright_set(), SHORT)["only"]
    timed = row("student", 0.6, latency=timing.latency_ms)
    written(report(timed, gain=GAIN), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["schema"] == 1
    assert {"name", "environment", "training", "gain", "rows"} <= set(content)
    assert {"ap", "ci95", "seeds", "verdict"} <= set(content["gain"])
    (only,) = content["rows"]
    expected = (
        "model backend precision artifact sha256 size_mb parameters ap latency_ms predictions"
    )
    assert {*expected.split(), "verdict"} <= set(only)
    assert tuple(only["ap"]) == COCO_NAMES
    assert only["ap"]["AP_L"] is None
    for scope in ("engine", "end_to_end"):
        assert {"p50", "p90", "p99", "min", "n", "ci95_p50"} <= set(only["latency_ms"][scope])
    assert only["latency_ms"]["batch"] == 1


@pytest.mark.slow
def test_pages_are_drawn_from_report_json_alone(tmp_path):
    with BrightEngine() as engine:
        timing = measure({"only": engine}, bright_set(), SHORT)["only"]
    data = report(
        row("teacher", 0.7, latency=timing.latency_ms),
        row("student", 0.6, latency=timing.latency_ms),
        gain=GAIN,
        training={
            "student": TrainingRun(
                model="student",
                curve=({"step": 1, "AP": 0.1, "loss": 3.0}, {"step": 2, "AP": 0.2, "loss": 2.0}),
            )
        },
        per_class={"student": {"red": 0.5, "green": None}},
        recipe="schema: 1",
        data={"train": {"images": 3, "dropped": {}}},
        notes=("a remark",),
        timed=TimedCurves(
            clock="time",
            taught_s=2,
            curves=(
                TimedCurve(model="baseline", seed=0, points=((1.0, 0.1),)),
                *(
                    TimedCurve(model="student", seed=seed, points=((3.0, 0.1), (4.0, 0.2)))
                    for seed in range(2)
                ),
            ),
        ),
    )
    markdown, html = written(data, tmp_path)
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == [
        *("ap_curves.png", "ap_time.png", "latency_ap.png", "losses.png", "per_class.png"),
        "waterfall.png",
    ]
    assert all(
        "the 2 s in which the teacher's outputs" in page for page in (markdown, unescape(html))
    )
    (tmp_path / "report.md").unlink()
    (tmp_path / "report.html").unlink()
    render_report(tmp_path)
    assert (tmp_path / "report.md").read_text() == markdown
    assert (tmp_path / "report.html").read_text() == html


@pytest.mark.slow
def test_the_html_is_one_file_without_anything_from_elsewhere(tmp_path):
    images = bright_set(3)
    sheet = sample_grid(images, sample_pictures(images), {"student": []}, 0.25, tmp_path / "s.png")
    picture = Picture(path=sheet.name, caption="three pictures")
    markdown, html = written(report(pictures=(picture,)), tmp_path)
    assert html.count("data:image/png;base64,") == 2  # the waterfall and the sheet
    assert "http" not in html
    assert "<script" not in html
    assert "![three pictures](s.png)" in markdown


def test_names_cannot_break_the_page(tmp_path):
    _, _, html = pages(report(), tmp_path)
    assert "a &lt;b&gt;run&lt;/b&gt;" in html
    assert "<b>run" not in html


def test_a_proven_gain_is_the_headline_with_its_interval(tmp_path):
    _, markdown, html = pages(report(gain=GAIN), tmp_path)
    for page in (markdown, html):
        assert "+10.0 AP [+8.0, +12.0] over 3 seeds: proven" in page


def test_one_seed_is_not_proven_in_the_headline(tmp_path):
    gain = Gain(ap=0.1, ci95=None, seeds=1, verdict="not proven (one seed)")
    _, markdown, _ = pages(report(gain=gain), tmp_path)
    assert "**Gain by distillation: +10.0 AP, not proven.**" in markdown
    assert "on 1 seed: not proven (one seed)" in markdown


def test_a_teacher_below_the_baseline_is_the_first_warning(tmp_path):
    rows = (row("teacher", 0.4), row("baseline", 0.5), row("student", 0.6))
    content, markdown, html = pages(report(*rows), tmp_path)
    warning = "The teacher (40.0 AP) measured below the baseline (50.0 AP)"
    assert content["warnings"][0].startswith(warning)
    assert markdown.splitlines()[2].startswith(f"> **Warning.** {warning}")
    assert html.index(warning) < html.index("<h2>")


def test_without_problems_there_is_no_warning(tmp_path):
    content, _, _ = pages(report(gain=GAIN), tmp_path)
    assert content["warnings"] == []


@pytest.mark.parametrize(
    ("precision", "ap", "warned"),
    [("fp32", 0.5991, False), ("fp32", 0.598, True), ("int8", 0.591, False), ("int8", 0.58, True)],
)
def test_an_export_that_costs_accuracy_is_warned_of(tmp_path, precision, ap, warned):
    exported = row("student", ap, backend="onnxruntime", precision=precision)
    content, _, _ = pages(report(row("student", 0.6), exported), tmp_path)
    assert bool(content["warnings"]) is warned


def timed(p50: float, low: float, high: float) -> dict[str, Any]:
    scope = {"p50": p50, "p90": 3.0, "p99": 3.0, "min": 1.0, "n": 4, "ci95_p50": [low, high]}
    return {"engine": scope, "end_to_end": scope, "batch": 1}


@pytest.mark.parametrize(
    ("int8", "fp32", "verdict", "slower"),
    [
        ((2.0, 1.9, 2.1), (1.0, 0.9, 1.1), "valid", True),
        ((1.62, 1.53, 1.78), (1.48, 1.39, 1.65), "valid", False),  # the intervals overlap
        ((2.0, 1.9, 2.1), (1.0, 0.9, 1.1), "noisy: load", False),
        ((1.0, 0.9, 1.1), (2.0, 1.9, 2.1), "valid", False),
    ],
)
def test_int8_is_called_slower_only_where_the_intervals_show_it(int8, fp32, verdict, slower):
    made = {"backend": "onnxruntime"}
    rows = (
        row("student", 0.6, latency=timed(*fp32), verdict=verdict, **made),
        row("student", 0.6, precision="int8", latency=timed(*int8), **made),
    )
    said = [warning for warning in complete(report(*rows)).warnings if "INT8" in warning]
    told = "student onnxruntime int8 takes 2.00 [1.90, 2.10] ms, fp32 1.00 [0.90, 1.10] ms"
    assert said == ([f"INT8 is slower than FP32 here: {told}."] if slower else [])


def test_noisy_timings_are_warned_of_and_every_reason_is_named_once(tmp_path):
    rows = [
        row("student", 0.6, latency=timed(1, 1, 1), verdict=f"noisy: {reasons}")
        for reasons in ("load average up to 3.1 on 2 cores", "load average up to 4.2 on 2 cores")
    ]
    rows[1] = rows[1].model_copy(
        update={"precision": "int8", "verdict": f"{rows[1].verdict}; SM clock moved by 4%"}
    )
    content, markdown, _ = pages(report(*rows), tmp_path)
    assert "unreliable in 2 of 2 rows" in content["warnings"][0]
    assert "Unreliable timing: load average up to 4.2 on 2 cores (all rows)." in markdown
    assert "Unreliable timing: SM clock moved by 4% (student torch int8)." in markdown
    assert "up to 3.1 on 2 cores (" not in markdown


def test_a_ratio_of_unreliable_timings_decides_nothing(tmp_path):
    speed = Speed(
        model="student onnxruntime int8", reference="teacher torch fp32", scope="engine",
        ratio=9.0, ci95=(8.5, 9.5), verdict="faster",
    )  # fmt: skip
    for verdict, figure, said in (
        ("valid", "9.00\u00d7", "torch fp32: faster"),
        ("throttled: hot", "undecided", "the timing is throttled, so nothing is decided"),
    ):
        _, markdown, _ = pages(
            report(
                row("teacher", 0.7, verdict=verdict, latency=timed(1, 1, 1)),
                row("student", 0.6, backend="onnxruntime", precision="int8"),
                speed=(speed,),
            ),
            tmp_path,
        )
        assert f"**Speed, model with copies: {figure}.**" in markdown
        assert said in markdown


def test_a_speed_ratio_whose_interval_holds_one_is_no_change(tmp_path):
    speed = Speed(
        model="student", reference="teacher", scope="engine", ratio=1.02, ci95=(0.9, 1.1),
        verdict="no change",
    )  # fmt: skip
    _, markdown, _ = pages(report(speed=(speed,)), tmp_path)
    assert "**Speed, model with copies: no change.**" in markdown
    assert "1.02 [0.90, 1.10] times as fast" in markdown


def test_what_was_not_measured_is_n_a_and_not_a_number(tmp_path):
    _, markdown, _ = pages(report(row("student", 0.6)), tmp_path)
    line = next(line for line in markdown.splitlines() if line.startswith("| student"))
    assert line.split(" | ")[6:12] == ["n/a", "203 k", "n/a", "n/a", "n/a", "n/a"]


def test_ap_must_be_the_twelve_numbers_between_0_and_1():
    with pytest.raises(ValidationError, match="expected exactly AP, AP50"):
        ReportRow.model_validate({**row("student", 0.6).model_dump(), "ap": {"AP": 0.5}})
    with pytest.raises(ValidationError, match=r"AP is 61.0; expected 0..1"):
        row("student", 61.0)


def test_a_broken_report_json_is_named(tmp_path):
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ToolkitError, match=r"report\.json: not a readable report"):
        render_report(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolkitError, match="could not be written"):
        write_report(report(), tmp_path / "file" / "report")


def test_figures_read_as_the_field_writes_them():
    assert (points(0.12345), points(None)) == ("12.3", "n/a")
    assert (signed_points(0.0512), signed_points(-0.0042, 2)) == ("+5.1", "\u22120.42")
    assert (signed_points(0.0), signed_points(-0.0001)) == ("0.0", "0.0")
    assert [milliseconds(value) for value in (1.234, 12.34, 123.4)] == ["1.23", "12.3", "123"]
    assert (parameter_count(203_456), parameter_count(2_270_000)) == ("203 k", "2.27 M")


@pytest.mark.parametrize(
    ("given", "shown"),
    [((8.6, 8.6), (8.1, 9.1)), ((8.4, 8.8), (8.1, 9.1)), ((5.0, 9.0), (5.0, 9.0))],
)
def test_an_axis_is_not_enlarged_to_show_rounding(given, shown):
    assert spread(given[0], given[1], 1.0) == pytest.approx(shown)


def test_the_pareto_front_keeps_what_nothing_beats():
    # (3, 40) is slower and worse than (2, 50); (2, 45) is as fast and worse.
    assert pareto_front([(3, 40), (1, 30), (2, 45), (2, 50), (9, 60)]) == [
        (1, 30),
        (2, 50),
        (9, 60),
    ]


HOSTILE = "![a](http://x) [b](javascript:y) <img src=x onerror=z> `c` **d**|\x1b[31m\u202e\n# e"


def text_of(block: Token) -> str:
    return "".join(token.content for token in block.children or ())


def test_names_and_notes_are_text_everywhere_in_the_pages(tmp_path):
    data = report(
        row("teacher", 0.7),
        row("student", 0.6),
        per_class={HOSTILE: {HOSTILE: 0.5}},
        data={"splits": {"train": {"notes": [HOSTILE], "boxes_per_class": {HOSTILE: 3}}}},
        notes=(HOSTILE,),
        warnings=(HOSTILE,),
        recipe=f"name: x # ```\n# ``` {HOSTILE}",
    ).model_copy(update={"name": HOSTILE})
    _, markdown, html = pages(data, tmp_path)
    blocks = MarkdownIt("commonmark").enable("table").parse(markdown)
    kinds = {token.type for block in blocks for token in (block, *(block.children or ()))}
    assert not kinds & {"link_open", "image", "html_inline", "html_block", "code_inline", "em_open"}
    assert [block.info for block in blocks if block.type == "fence"] == ["yaml"]
    assert "http://" not in markdown.partition("````yaml")[0]
    assert sum("[b](javascript:y)" in text_of(block) for block in blocks) >= 7
    for page in (markdown, html):
        assert "\x1b" not in page
        assert "\u202e" not in page
    assert "<img src=x" not in html
