"""A whole run on data without splits: what it writes down, and what it is held to."""

import json
from pathlib import Path

import pytest

from benchmarks.data.folder import read_measured
from compress.run import main
from tests.benchmarks.data.tiny import picture
from tests.compress.test_one_detector import ALONE

BOX = "{} 0.5 0.5 0.4 0.4\n"


@pytest.mark.slow
def test_a_run_writes_its_division_down_and_is_held_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "heap"
    for number in range(12):
        picture(root / f"{number}.jpg", shade=60 + number)
        (root / f"{number}.txt").write_text(BOX.format(number % 2), encoding="utf-8")
    (root / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    head, tail = ALONE.index("data:"), ALONE.index("student:")
    data = f"data: {{type: folder, root: {root}, image_size: 64, split: {{val: 0.3, seed: 1}}}}\n"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(ALONE[:head] + data + ALONE[tail:], encoding="utf-8")
    command = [str(recipe), "--runs", str(tmp_path / "runs"), "export.precisions=[fp32]"]

    assert main([*command, "--check"]) == 0
    assert "divided by content, seed 1: train 8, val 4" in capsys.readouterr().err
    assert main(command) == 0
    home = tmp_path / "runs" / "alone"
    written = json.loads((home / "split.json").read_text(encoding="utf-8"))
    assert {side: len(files) for side, files in written["files"].items()} == {
        "train": 8,
        "val": 4,
        "test": 0,
    }
    report = json.loads((home / "report" / "report.json").read_text(encoding="utf-8"))
    val = read_measured(root, "val", division=home / "split.json")
    assert {path.name for path in val.paths} == set(written["files"]["val"])
    assert report["rows"]

    picture(root / "new.jpg", shade=200)
    (root / "new.txt").write_text(BOX.format(0), encoding="utf-8")
    capsys.readouterr()
    assert main(command) == 3
    said = capsys.readouterr().err
    assert "split.json: this run began with other pictures" in said
    assert "Traceback" not in said
