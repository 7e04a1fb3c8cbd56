"""The headline, the waterfall and the further tables of a report."""

import json
from pathlib import Path

import pytest

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.deployed import Deployed, deployed_accuracy
from benchmarks.report.content import complete
from benchmarks.report.schema import Gain, ReportRow, Speed, TrainingRun
from benchmarks.report.seeds import OverSeeds, over_seeds
from benchmarks.report.tables import (
    band_table,
    certificate_table,
    parity_table,
    shares,
    terms_table,
    throughput_table,
)
from tests.benchmarks.accuracy.test_coco_map import random_case
from tests.benchmarks.report.test_content import pages, report, row


def latency(p50: float) -> dict[str, object]:
    scope = {"p50": p50, "p90": 3.0, "p99": 3.0, "min": 1.0, "n": 4, "ci95_p50": [1.0, 2.0]}
    return {"engine": scope, "end_to_end": scope, "batch": 1}


def exported(model: str, ap: float, precision: str = "fp32", **fields: object) -> ReportRow:
    made = row(model, ap, backend="onnxruntime", precision=precision)
    return ReportRow.model_validate({**made.model_dump(), **fields})


ROWS = (
    exported("teacher", 0.7, latency_ms=latency(9)),
    exported("baseline", 0.5),
    row("student", 0.6),
    exported("student", 0.599, latency_ms=latency(2)),
    exported("student", 0.595, "int8", latency_ms=latency(1), verdict="throttled: SM clock"),
)


def test_the_headline_is_about_the_fastest_artifact_that_kept_its_accuracy() -> None:
    gain = Gain(ap=0.1, ci95=(0.08, 0.12), seeds=3, verdict="proven")
    speed = Speed(
        model="student onnxruntime int8", reference="teacher onnxruntime fp32", scope="end_to_end",
        ratio=9, ci95=(8.5, 9.4), verdict="faster",
    )  # fmt: skip
    said = complete(report(*ROWS, gain=gain, speed=(speed,))).headline
    assert said == (
        "Distillation won over plain training of as many steps (distilled minus plain: +10.0 AP "
        "[+8.0, +12.0] over 3 seeds). The student onnxruntime int8 reaches 59.5 AP (the teacher "
        "70.0). End to end it measured 9.00\u00d7 [8.50, 9.40] as fast as the teacher onnxruntime "
        "fp32 (the timing is throttled, so nothing is decided): 1.00 ms at the median."
    )
    worse = (*ROWS[:4], exported("student", 0.5, "int8", latency_ms=latency(1)))
    assert "student onnxruntime fp32" in complete(report(*worse)).headline


def gain_of(ap: float, *ci95: float, verdict: str, **fields: object) -> Gain:
    made = {"ap": ap, "ci95": ci95 or None, "seeds": 3 if ci95 else 1, "verdict": verdict}
    return Gain.model_validate({**made, **fields})


ONE_SEED = "not proven (one seed)"
PROVEN = gain_of(0.1, 0.08, 0.12, verdict="proven")
LUCK = {"ap": -0.06, "ci95": (-0.09, -0.02), "samples": 200}


@pytest.mark.parametrize(
    ("gain", "first"),
    [
        (
            gain_of(-0.05, -0.06, -0.04, verdict="worse"),
            "Plain training of as many steps won (distilled minus plain: \u22125.0 AP [\u22126.0, "
            "\u22124.0] over 3 seeds). The",
        ),
        (
            gain_of(0.02, -0.01, 0.05, verdict="not proven"),
            "Nothing is decided between distillation and plain training of as many steps "
            "(distilled minus plain: +2.0 AP [\u22121.0, +5.0] over 3 seeds). The",
        ),
        (
            PROVEN.model_copy(update={"equal_time": gain_of(-0.05, -0.06, -0.04, verdict="worse")}),
            "Plain training of equal time won (distilled minus plain: \u22125.0 AP [\u22126.0, "
            "\u22124.0] over 3 seeds). At equal steps: +10.0 AP [+8.0, +12.0] over 3 seeds "
            "(proven). The",
        ),
        (
            gain_of(
                0.1,
                verdict=ONE_SEED,
                equal_time=gain_of(-0.06, verdict=ONE_SEED, bootstrap=LUCK),
            ),
            "Plain training of equal time ended ahead (distilled minus plain: \u22126.0 AP "
            "[\u22129.0, \u22122.0 over validation pictures] on one seed), but one seed decides "
            "nothing. At equal steps: +10.0 AP on one seed (not proven). The",
        ),
        (
            gain_of(0.1, verdict=ONE_SEED),
            "Nothing is decided between distillation and plain training of as many steps "
            "(distilled minus plain: +10.0 AP on one seed). The",
        ),
        (
            PROVEN.model_copy(update={"equal_time": PROVEN}),
            "Distillation won over plain training of equal time (distilled minus plain: +10.0 AP "
            "[+8.0, +12.0] over 3 seeds). At equal steps",
        ),
    ],
)
def test_the_first_line_says_who_won_at_equal_time_or_that_nothing_is_decided(
    tmp_path: Path, gain: Gain, first: str
) -> None:
    content, markdown, html = pages(report(*ROWS, gain=gain), tmp_path)
    assert content["headline"].startswith(first)
    assert markdown.splitlines()[2].startswith(first)
    assert html.index('class="headline"') < html.index('class="tile')


def test_ap_of_several_seeds_is_their_mean_and_deviation(tmp_path: Path) -> None:
    seeds = exported("student", 0.599, name="seed0-student", seed_aps=(0.599, 0.5, 0.4))
    other = exported("student", 0.595, "int8", name="seed0-student")
    _, markdown, _ = pages(report(ROWS[0], seeds, other, gain=PROVEN), tmp_path)
    # mean (59.9 + 50 + 40) / 3, deviation sqrt((9.93^2 + 0.03^2 + 9.97^2) / 2)
    assert "| student | onnxruntime | fp32 | 50.0 \u00b1 10.0 |" in markdown
    assert "| student | onnxruntime | int8 | 59.5 (seed 0) |" in markdown
    assert "| teacher | onnxruntime | fp32 | 70.0 |" in markdown
    assert "mean and standard deviation of AP over 3 seeds" in markdown
    said = markdown.splitlines()[2]
    assert "the student in fp32 has 50.0 \u00b1 10.0 AP over 3 seeds" in said


def test_the_waterfall_of_several_seeds_begins_with_their_means() -> None:
    baseline = exported("baseline", 0.5, name="seed0-baseline", seed_aps=(0.5, 0.3))
    student = exported("student", 0.4, name="seed0-student", seed_aps=(0.4, 0.6))
    int8 = exported("student", 0.395, "int8", name="seed0-student")
    stages = complete(report(ROWS[0], baseline, row("student", 0.4), student, int8)).waterfall
    assert [(stage.title, round(stage.ap, 6), stage.against) for stage in stages] == [
        ("teacher", 0.7, None),
        ("baseline, mean of 2 seeds", 0.4, "teacher"),
        ("student, mean of 2 seeds", 0.5, "baseline, mean of 2 seeds"),
        ("student, torch, first seed", 0.4, None),
        ("student, onnxruntime fp32, first seed", 0.4, "student, torch, first seed"),
        ("student, onnxruntime int8, first seed", 0.395, "student, onnxruntime fp32, first seed"),
    ]


def test_a_report_made_before_takes_its_seeds_from_the_trainings() -> None:
    training = {
        f"seed{seed}-{model}": TrainingRun(model=model, seed=seed, curve=({"step": 1, "AP": ap},))
        for model, aps in (("student", (0.5, 0.6)), ("baseline", (0.4, 0.2)))
        for seed, ap in enumerate(aps)
    }
    data = report(*ROWS, training=training)
    found = {row.model: over_seeds(row, data) for row in ROWS if row.precision == "fp32"}
    assert found["student"] == OverSeeds((0.5, 0.6))
    assert found["baseline"] == OverSeeds((0.4, 0.2))
    assert found["teacher"] is None
    assert over_seeds(ROWS[-1], data) is None  # INT8 was made of the first seed alone


def test_the_waterfall_names_what_each_stage_is_held_against() -> None:
    deployed = Deployed(score_threshold=0.25, ap={"AP": 0.58}, detections_per_picture=3.0)
    rows = (*ROWS[:4], exported("student", 0.597, "fp16"), exported("student", 0.595, "int8"))
    last = rows[-1].model_copy(update={"deployed": deployed})
    stages = complete(report(*rows[:-1], last)).waterfall
    assert [(stage.title, stage.against) for stage in stages] == [
        ("teacher", None),
        ("baseline", "teacher"),
        ("student, torch", "baseline"),
        ("student, onnxruntime fp32", "student, torch"),
        ("student, onnxruntime fp16", "student, onnxruntime fp32"),
        ("student, onnxruntime int8", "student, onnxruntime fp32"),
        ("student, onnxruntime int8, scores from 0.25", "student, onnxruntime int8"),
    ]
    changes = [stage.change for stage in stages[1:]]
    assert changes == pytest.approx([-0.2, 0.1, -0.001, -0.002, -0.004, -0.015])


def test_deployed_accuracy_is_cocos_without_the_low_scores() -> None:
    results, truth = random_case(3)
    found = deployed_accuracy(results, truth, 0.5)
    kept = [result for result in results if result["score"] >= 0.5]
    assert 0 < len(kept) < len(results)
    assert found.ap == coco_map(kept, truth).values
    assert found.detections_per_picture == len(kept) / len(truth["images"])


def test_certificates_and_parity_are_shown_whatever_their_keys() -> None:
    certificate = {
        "nodes": {"int8": 3, "fp32": 1},
        "time": {"float32": 0.2, "int8": 0.8},
        "measured_on": "a runtime",
        "layers": [{"name": "stem", "type": "fp32"}],
        "empty": {},
    }
    parity = {"matched": 7, "min_iou": 0.98, "bands": [{"from": 0.05, "to": 0.25, "missing": 2}]}
    told = report(exported("student", 0.6, "int8", certificate=certificate, parity=parity))
    content = complete(told)
    table = certificate_table(content)
    assert table is not None
    assert [cells[1:] for cells in table.rows] == [
        ("nodes", "int8 75.0\u00a0% (3), fp32 25.0\u00a0% (1)"),
        ("time", "int8 80.0\u00a0%, float32 20.0\u00a0%"),
        ("measured on", "a runtime"),
        ("layers", "name stem, type fp32"),
    ]
    agreed, bands = parity_table(content), band_table(content)
    assert agreed is not None
    assert bands is not None
    assert agreed.header == ("row", "matched", "min iou")
    assert agreed.rows[0][1:] == ("7", "0.98")
    assert bands.rows[0][1:] == ("0.05 to 0.25", "2")
    assert shares({"kind": "mixed", "share": 0.5}) == "kind mixed, share 0.5"


def test_the_first_and_last_terms_are_shown_with_their_automatic_weight() -> None:
    terms = tuple(
        {"step": step, "name": "gid/feature", "value": 1.0, "ratio": ratio, "gradient_ratio": 0.5}
        for step, ratio in ((0, 2.0), (10, 0.25))
    )
    run = TrainingRun(model="student", terms=terms, auto_weights={"gid": 0.125})
    table = terms_table(complete(report(training={"seed0-student": run})))
    assert table is not None
    (cells,) = table.rows
    assert cells == ("seed0-student", "gid/feature", "2", "0.25", "0.5", "0.5", "0.125")


def test_an_unmeasured_batch_is_marked_as_not_measured() -> None:
    one = {"batch": 1, "images_per_s": 100.4, "call_ms": 10.0, "n": 9}
    two = {"batch": 2, "images_per_s": 150.0, "call_ms": 13.3, "n": 9}
    fixed = exported("teacher", 0.7, throughput=[one])
    free = exported("student", 0.6, throughput=[one, two])
    table = throughput_table(complete(report(fixed, free)))
    assert table is not None
    assert [cells[1:] for cells in table.rows] == [("100", "not measured"), ("100", "150")]


def test_the_three_files_carry_the_same_facts(tmp_path) -> None:
    content, markdown, html = pages(report(*ROWS), tmp_path)
    assert json.loads(json.dumps(content)) == content
    for fact in (
        content["headline"],
        "By object size",
        "From trained model to device",
        "throttled",
    ):
        assert fact in markdown
        assert fact in html
