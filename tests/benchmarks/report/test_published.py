"""Reports that were written by earlier versions are read and drawn."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import main as compare
from benchmarks.gates import GatesConfig, broken_gates, load_report
from benchmarks.report.content import complete, render_report
from benchmarks.report.html import html_page
from benchmarks.report.markdown import markdown_page
from benchmarks.report.text import milliseconds, points, row_title

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
BEFORE = Path(__file__).with_name("made_before")  # results that were withdrawn since
PUBLISHED = sorted(path for folder in (RESULTS, BEFORE) for path in folder.glob("run_*.json"))


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_the_pages_of_a_published_report_have_all_its_rows(file: Path, tmp_path: Path) -> None:
    data = complete(load_report(file))
    written = json.loads(file.read_text(encoding="utf-8"))
    assert len(data.rows) == len(written["rows"]) > 3
    pages = markdown_page(data, [], tmp_path), html_page(data, [], tmp_path)
    for row, before in zip(data.rows, written["rows"], strict=True):
        for page in pages:
            assert row_title(row) in page
            assert points(before["ap"]["AP"]) in page
            if before["latency_ms"] is not None:
                assert milliseconds(before["latency_ms"]["engine"]["p50"]) in page


@pytest.mark.slow
@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_the_plots_of_a_published_report_are_drawn(file: Path, tmp_path: Path) -> None:
    shutil.copyfile(file, tmp_path / "report.json")
    html = render_report(tmp_path).read_text(encoding="utf-8")
    plots = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"latency_ap.png", "waterfall.png", "ap_curves.png", "per_class.png"} <= plots
    assert html.count("data:image/png;base64,") == len(plots)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_no_key_of_a_published_report_is_lost(file: Path) -> None:
    written = json.loads(file.read_text(encoding="utf-8"))
    read = load_report(file).model_dump(mode="json", by_alias=True)
    assert missing(written, read) == []


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_a_published_report_keeps_its_own_limits(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gates = GatesConfig(max_ap_drop=0, max_p50="+0%", max_size="+0%", allow_noisy=True)
    data = load_report(file)
    measured = data.model_copy(update={"rows": [r for r in data.rows if r.latency_ms is not None]})
    assert broken_gates(measured, measured, gates) == []
    assert compare([str(file), str(file), "--max-ap-drop", "0"]) == 0
    assert "student onnxruntime fp32" in capsys.readouterr().out


def missing(written: Any, read: Any, at: str = "") -> list[str]:
    """Where `read` lacks something of `written`, or has another value."""
    if isinstance(written, dict):
        lost = [f"{at}.{key}" for key in written if key not in read]
        for key in written.keys() & read.keys():
            lost += missing(written[key], read[key], f"{at}.{key}")
        return lost
    if isinstance(written, list):
        if len(written) != len(read):
            return [at]
        pairs = enumerate(zip(written, read, strict=True))
        return [gap for n, pair in pairs for gap in missing(*pair, f"{at}[{n}]")]
    return [] if written == read else [at]
