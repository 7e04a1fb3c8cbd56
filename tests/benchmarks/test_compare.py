"""Two reports compared, and limits that may break."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.accuracy.coco_map import COCO_NAMES
from benchmarks.compare import main
from benchmarks.gates import GatesConfig, parse_limit


def write(
    folder: Path,
    ap: float = 0.5,
    p99: float = 10.0,
    verdict: str = "valid",
    precision: str = "int8",
) -> Path:
    scope = {"p50": p99 / 2, "p90": p99, "p99": p99, "min": 1.0, "n": 500, "ci95_p50": [4, 6]}
    row: dict[str, Any] = {
        "model": "student",
        "backend": "onnxruntime",
        "precision": precision,
        "artifact": "model.onnx",
        "sha256": f"{ap}",
        "size_mb": 4.0,
        "parameters": 1000,
        "ap": dict.fromkeys(COCO_NAMES, ap),
        "latency_ms": {"engine": scope, "end_to_end": scope, "batch": 1},
        "predictions": "p.json",
        "verdict": verdict,
    }
    content = {"schema": 1, "name": "x", "environment": {"cpu": {"model": "a"}}, "rows": [row]}
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "report.json").write_text(json.dumps(content))
    return folder


def test_the_differences_of_shared_rows_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", ap=0.48, p99=11.0)
    assert main([str(a), str(b)]) == 0
    said = capsys.readouterr().out
    assert "student onnxruntime int8" in said
    assert "50.00 -> 48.00 (-2.00)" in said
    assert "10 -> 11 (+10%)" in said


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
