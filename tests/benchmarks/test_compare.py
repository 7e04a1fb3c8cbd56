"""Two reports compared, and limits that may break."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.accuracy.coco_map import COCO_NAMES
from benchmarks.compare import main
from benchmarks.gates import GatesConfig, parse_limit
from compress.recipe import load_recipe
from export.errors import RecipeError
from tests.benchmarks.written_reports import FP32, LIMITS, VAL, change, on, stating, write
from tests.compress.smoke import write_smoke


def test_the_differences_of_shared_rows_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", ap=0.48, p99=11.0)
    assert main([str(a), str(b)]) == 0
    said = capsys.readouterr().out
    assert "student onnxruntime int8" in said
    assert "50.00 -> 48.00 (-2.00)" in said
    assert "10 -> 11 (+10%)" in said


def test_the_table_fits_100_columns_and_shows_an_unchanged_figure_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(tmp_path / "a", p99=10.72), write(tmp_path / "b", ap=0.48, p99=11.09)
    other = {"precision": "int8-trt", "sha256": "same"}
    assert main([str(change(a, {}, other)), str(change(b, {}, other))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.endswith(" 4") for line in lines] == [False, True, True, False]
    assert lines[3] == "same file in both reports: student onnxruntime int8-trt"


def test_a_report_of_pictures_that_were_decoded_otherwise_is_pointed_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    main([str(a), str(b)])
    assert "decoded" not in capsys.readouterr().out
    path = b / "report" / "report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "preprocessing": 1}))
    main([str(a), str(b)])
    assert "the first report is of before pictures were decoded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limits", "broken"),
    [
        (["--max-ap-drop", "0.3"], "AP fell by 2.00 to 48.00; the limit is 0.3"),
        (["--max-ap-drop", "2"], None),
        (["--max-p99", "+5%"], "end-to-end p99 is 11 ms; the limit is 10.5 ms"),
        (["--max-p99", "+10%"], None),
        (["--max-p50", "5.4"], "end-to-end p50 is 5.5 ms; the limit is 5.4 ms"),
        (["--max-size", "4"], None),
    ],
)
def test_a_broken_limit_ends_with_3_and_says_by_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], limits: list[str], broken: str | None
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", ap=0.48, p99=11.0)
    assert main([str(a), str(b), *limits]) == (3 if broken else 0)
    if broken:
        assert broken in capsys.readouterr().err


def test_a_noisy_timing_keeps_no_latency_limit_unless_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", verdict="noisy: load 9")
    assert main([str(a), str(b), "--max-p99", "+5%"]) == 3
    assert "cannot be checked: the timing is noisy: load 9" in capsys.readouterr().err
    assert main([str(a), str(b), "--max-p99", "+5%", "--allow-noisy"]) == 0
    assert main([str(a), str(b), "--max-ap-drop", "0"]) == 0


def test_reports_without_a_common_row_keep_no_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", precision="fp16")
    assert main([str(a), str(b), "--max-ap-drop", "1"]) == 3
    captured = capsys.readouterr()
    assert "only in the first report" in captured.out
    assert "no row in common" in captured.err


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([{}, FP32], [FP32], "student onnxruntime int8: the row is gone from the new report"),
        ([{}], [{}, {}], "int8: the new report has 2 such rows"),
        ([{}, {}], [{}], "int8: the reference has 2 such rows"),
        ([{}], [], "no row in common"),
        ([], [{}], "no row in common"),
        ([], [], "no row in common"),
        ([{}], [{"verdict": "failed: no kernel"}], "report is marked 'failed: no kernel'"),
        ([{"verdict": "crashed"}], [{}], "the row of the reference is marked 'crashed'"),
        ([{}], [{"failed": True}], "the row of the new report is marked failed: True"),
        ([{}], [{"status": "failed"}], "the row of the new report is marked status: failed"),
        ([{}], [{"error": "died"}], "the row of the new report is marked error: died"),
        ([{}], [{"verdict": "not measured: x", "latency_ms": None}], "p99 cannot be checked"),
        ([{}], [{"size_mb": None}], "size cannot be checked: it was not measured"),
        ([{}], [{"size_mb": -4.0}], "size cannot be checked: -4 MB is no size"),
        ([{}], [{"size_mb": 1e-300}], "size cannot be checked: 1e-300 MB is no size"),
        ([{"size_mb": 1e300}], [{}], "size cannot be checked: 1e+300 MB is no size"),
        ([{}], [{"ap": dict.fromkeys(COCO_NAMES)}], "AP cannot be checked"),
        (
            [{"model": "teacher", "name": "teacher"}, {"model": "teacher", "name": "teacher2"}],
            [{"model": "teacher", "name": "teacher"}],
            "teacher2 onnxruntime int8: the row is gone",
        ),
    ],
)
def test_a_limit_that_cannot_be_checked_is_exceeded(tmp_path, capsys, before, after, said):
    a, b = change(write(tmp_path / "a"), *before), change(write(tmp_path / "b"), *after)
    assert main([str(a), str(b), *LIMITS]) == 3
    assert said in capsys.readouterr().err


def test_rows_that_only_the_new_report_has_exceed_nothing(tmp_path: Path) -> None:
    a, b = change(write(tmp_path / "a"), {}), change(write(tmp_path / "b"), {}, FP32)
    assert main([str(a), str(b), *LIMITS]) == 0
    assert main([str(b), str(a)]) == 0  # a row is gone, but no limit is given


def test_a_report_without_a_key_is_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    file = b / "report" / "report.json"
    content = json.loads(file.read_text())
    huge = {**content["rows"][0], "parameters": 10**30}
    broken: list[Any] = [{**content, "rows": None}, {**content, "rows": [huge]}, {"schema": 1}]
    broken += [{}, [], None]
    for given in broken:
        file.write_text(json.dumps(given))
        assert main([str(a), str(b), *LIMITS]) == 1
        assert "not a readable report" in capsys.readouterr().err


@pytest.mark.parametrize("p99", [0.0, -5.0, 1e-9, 1e12])
def test_a_latency_that_no_call_takes_keeps_no_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], p99: float
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", p99=p99)
    assert main([str(a), str(b), "--max-p99", "+900%"]) == 3
    assert f"p99 cannot be checked: {p99:g} ms is no end-to-end p99" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("ap", {"AP": True}, "rows[0].ap.AP: expected a number, found true"),
        ("ap", {"AP": "0.5"}, 'rows[0].ap.AP: expected a number, found "0.5"'),
        ("size_mb", "4.0", 'rows[0].size_mb: expected a number, found "4.0"'),
        ("parameters", 1000.0, "rows[0].parameters: expected a whole number, found 1000.0"),
        ("latency_ms", {"p99": "5"}, 'latency_ms.end_to_end.p99: expected a number, found "5"'),
        ("model", "\ud800", "it is not JSON"),
        ("size_mb", math.nan, "NaN is no number of JSON"),
    ],
)
def test_figures_of_a_report_are_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: Any, said: str
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    row = json.loads((b / "report" / "report.json").read_text())["rows"][0]
    if key == "ap":
        value = {**row["ap"], **value}
    if key == "latency_ms":
        scope = row["latency_ms"]
        value = {**scope, "end_to_end": {**scope["end_to_end"], **value}}
    change(b, {key: value})
    assert main([str(a), str(b)]) == 1
    captured = capsys.readouterr().err
    assert "not a readable report" in captured
    assert said in captured


def test_a_report_with_a_doubled_key_or_a_false_version_is_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    file = b / "report" / "report.json"
    text = file.read_text()
    for old, new, said in (
        ('"AP": 0.5', '"AP": 0.5, "AP": 0.9', "stands twice in one object"),
        ('"schema": 1', '"schema": true', "schema: expected 1, found true"),
    ):
        file.write_text(text.replace(old, new))
        assert main([str(a), str(b)]) == 1
        assert said in capsys.readouterr().err


def test_rows_without_ap_are_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a")
    b = change(write(tmp_path / "b"), {"ap": {}}, {**FP32, "ap": {}})
    assert main([str(a), str(b)]) == 1
    said = capsys.readouterr().err
    assert said.count("expected exactly AP, AP50") == 1
    assert "rows[0].ap: " in said
    assert "got none of them (and 1 more like it)" in said


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (on(VAL), on({**VAL, "images": 86}), "the validation sets differ: pictures 87 and 86"),
        (on(VAL), on({**VAL, "boxes": 9}), "the validation sets differ: boxes 1137 and 9"),
        (
            on(VAL),
            on({**VAL, "boxes_per_class": {"RBC": 967, "fish": 170}}),
            "the validation sets differ: boxes of WBC 170 and 0, boxes of fish 0 and 170",
        ),
        (on(VAL), {}, "the second report does not state the pictures"),
        (on(VAL), on({**VAL, "boxes": 9}, split="test"), "the validation sets differ: boxes 1137"),
        ({"name": "a, 87 pictures", **on(VAL)}, {"name": "a"}, "the second report does not state"),
        ({"data": "87 pictures"}, on(VAL), "the first report does not state the pictures"),
        (on(VAL), {"data": {}}, "the second report does not state the pictures"),
        (on(VAL), on(None), "the second report does not state the pictures"),
        (
            on({"images": 87}),
            on({"boxes": 1137}),
            "the reports state no figure of their validation sets",
        ),
        (
            {"name": "val, 87 pictures"},
            {"name": "test, 90 pictures"},
            "the reports name different data: 'val, 87 pictures' and 'test, 90 pictures'",
        ),
    ],
)
def test_ap_on_other_pictures_keeps_no_limit(tmp_path, capsys, before, after, said):
    a, b = stating(write(tmp_path / "a"), **before), stating(write(tmp_path / "b"), **after)
    assert main([str(a), str(b), "--max-ap-drop", "50"]) == 3
    captured = capsys.readouterr().err
    assert said in captured
    assert captured.count("\n") == 1
    assert main([str(a), str(b), "--max-size", "+0%"]) == 0
    assert f"AP is not comparable: {said}" in capsys.readouterr().out


def test_benchmarks_with_other_classes_keep_no_limit_of_ap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = change(write(tmp_path / "a"), {"per_class": {"RBC": 0.5}})
    b = change(write(tmp_path / "b"), {"per_class": {"fish": 0.5}})
    assert main([str(a), str(b), "--max-ap-drop", "50"]) == 3
    assert "the reports have different classes: RBC, fish" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"name": "val, 87 pictures"}, {"name": "val, 87 pictures"}),
        (on(VAL), on(VAL, "COCO JSON /elsewhere/val.json")),
        ({"name": "before", **on(VAL)}, {"name": "after", **on({"images": 87})}),
        ({"name": "before", **on(VAL)}, on(VAL, split="test")),
        ({"name": "a, 87 pictures"}, {"name": "a, 87 pictures", **on(VAL, split="test")}),
        ({"name": "a, 87 pictures", **on(VAL)}, {"name": "a, 87 pictures"}),
        (on(VAL), on({**VAL, "boxes_per_class": {**VAL["boxes_per_class"], "none": 0}})),
    ],
)
def test_the_same_pictures_elsewhere_keep_a_limit(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    a, b = stating(write(tmp_path / "a"), **before), stating(write(tmp_path / "b"), **after)
    assert main([str(a), str(b), "--max-ap-drop", "0"]) == 0
    assert "not comparable" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--max-p99", value) for value in ("-5%", "-5", "nan", "inf", "", "5%%", "1e3")),
        *(("--max-ap-drop", value) for value in ("-0.1", "nan", "inf", "-inf", "1_0", "1e999", "")),
        *(("--max-p99", value) for value in ("1_0", "1_0%")),
    ],
)
def test_a_limit_is_a_number_from_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    a = write(tmp_path / "a")
    assert main([str(a), str(a), f"{option}={value}"]) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--max-ap-drop", "--max-p50", "--max-p99", "--max-size"])
def test_a_limit_is_given_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    a = write(tmp_path / "a")
    assert main([str(a), str(a), option, "0.3", f"{option}=99"]) == 2
    assert capsys.readouterr().err == (
        f"error: {option} is given 2 times ('0.3', '99'); give it once\n"
    )


@pytest.mark.parametrize(
    "limit", ["max_p50: -1", "max_size: .inf", "max_p99: .nan", "max_ap_drop: true", "max_p50: no"]
)
def test_gates_of_a_recipe_need_a_limit_that_is_one(tmp_path: Path, limit: str) -> None:
    with pytest.raises(RecipeError, match=limit.partition(":")[0]):
        load_recipe(write_smoke(tmp_path), [f"gates={{reference: there, {limit}}}"])
    with pytest.raises(RecipeError, match="at least one limit"):
        load_recipe(write_smoke(tmp_path), ["gates={reference: there}"])


def test_bad_arguments_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a")
    assert main([str(a), str(tmp_path / "none")]) == 1
    assert "there is no report here" in capsys.readouterr().err
    assert main([str(a), str(a), "--max-p99", "fast"]) == 2
    assert "--max-p99: 'fast' is not a limit" in capsys.readouterr().err


def test_limits_are_shares_or_absolute() -> None:
    assert parse_limit("+5%") == (0.05, True)
    assert parse_limit("12.5") == parse_limit(12.5) == (12.5, False)
    with pytest.raises(ValidationError, match="is not a limit"):
        GatesConfig.model_validate({"max_p99": "-5%"})
