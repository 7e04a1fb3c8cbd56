"""A bundle.json that contradicts the other files of its bundle is refused, by its key."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export import verify
from export.artifact.manifest import file_sha256

Content = dict[str, Any]
CHANGES: dict[str, tuple[str, Callable[[Content], object]]] = {
    "classes reversed": ("classes is", lambda b: b["classes"].reverse()),
    "classes null": ("classes is", lambda b: b.update(classes=None)),
    "classes empty": ("classes is", lambda b: b.update(classes=[])),
    "classes a text": ("classes is", lambda b: b.update(classes="x")),
    "classes of a number": ("classes is", lambda b: b.update(classes=["cat", 1])),
    "classes missing": ("classes is missing", lambda b: b.pop("classes")),
    "one class more": ("classes is", lambda b: b["classes"].append("x")),
    "name null": ("name is", lambda b: b.update(name=None)),
    "name a list": ("name is", lambda b: b.update(name=["x"])),
    "name missing": ("name is missing", lambda b: b.pop("name")),
    "fill": ("artifacts[0].input.fill is 7", lambda b: b["artifacts"][0]["input"].update(fill=7)),
    "height": ("input.height is 96", lambda b: b["artifacts"][0]["input"].update(height=96)),
    "no width": ("input.width is missing", lambda b: b["artifacts"][0]["input"].pop("width")),
    "nms": ("artifacts[0].nms.iou is 0.9", lambda b: b["artifacts"][0]["nms"].update(iou=0.9)),
    "precision": ("precision is", lambda b: b["artifacts"][0].update(precision="int8")),
    "one box": (
        "0 of 1 expected boxes missing, 15 too many",
        lambda b: b["artifacts"][0].update(expected=_first(b)),
    ),
    "any score": (
        "tolerance.score is 1000000000.0; expected a number in 0..0.002",
        lambda b: b["artifacts"][0]["tolerance"].update(score=1e9),
    ),
    "an int8 score": (
        "tolerance.score",
        lambda b: b["artifacts"][0]["tolerance"].update(score=0.08),
    ),
    "any box": (
        "tolerance.box_px is 64; expected a number in 0..0.5",
        lambda b: b["artifacts"][0]["tolerance"].update(box_px=64),
    ),
    "no score": ("min_score is 0.9", lambda b: b["artifacts"][0].update(min_score=0.9)),
    "no extra": ("extra_above is 2;", lambda b: b["artifacts"][0].update(extra_above=2)),
    "no extra of few": (
        "expected at most 0.052, min_score and the tolerance",
        lambda b: b["artifacts"][0].update(extra_above=b["artifacts"][0]["expected"][0][1]),
    ),
    "a box twice": ("1 of ", lambda b: b["artifacts"][0]["expected"].extend(_first(b))),
    "count": ("expected_count is", lambda b: b["artifacts"][0].update(expected_count=True)),
}


def _first(bundle: Content) -> list[object]:
    return list(bundle["artifacts"][0]["expected"][:1])


def rewrite(bundle: Path, change: Callable[[Content], object]) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    change(content)
    (bundle / "bundle.json").write_text(json.dumps(content))


def refused(bundle: Path, capsys) -> str:
    assert verify.main([str(bundle)]) == 6
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return str(said.err)


@pytest.mark.parametrize("change", CHANGES)
def test_a_contradiction_is_one_message_that_names_the_key(bundle, capsys, change):
    expected, alter = CHANGES[change]
    rewrite(bundle, alter)
    assert expected in refused(bundle, capsys)


def test_the_copy_in_the_bundle_refuses_it_too(bundle, capsys, monkeypatch):
    rewrite(bundle, lambda content: content["classes"].reverse())
    monkeypatch.setattr(sys, "argv", ["verify.py"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(bundle / "verify.py"), run_name="__main__")
    for name in set(sys.modules) - before:
        del sys.modules[name]
    assert ended.value.code == 6
    assert "classes is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "change", "key"),
    [
        ("labels.txt", lambda text: "x\n" + text, "classes is"),
        ("thresholds.json", lambda text: text.replace("0.25", "0.5"), "score is 0.5"),
        ("thresholds.json", lambda _: "[]", "holds a list"),
    ],
)
def test_other_files_that_contradict_a_sidecar_are_refused(bundle, capsys, file, change, key):
    (bundle / file).write_text(change((bundle / file).read_text()))
    digest = file_sha256(bundle / file)
    rewrite(bundle, lambda content: content["files"].update({file: digest}))
    assert key in refused(bundle, capsys)


def test_a_sidecar_of_another_size_than_the_golden_picture_fails(bundle, capsys):
    side = next(bundle.glob("models/*/model.json"))
    stated = json.loads(side.read_text())
    stated["input"]["height"] += 32
    side.write_text(json.dumps(stated))

    def agree(content: Content) -> None:
        content["artifacts"][0]["input"]["height"] += 32
        content["files"][side.relative_to(bundle).as_posix()] = file_sha256(side)

    rewrite(bundle, agree)
    assert verify.main([str(bundle)]) == 6
    assert "input.height is" in capsys.readouterr().out


def test_a_bundle_made_without_a_count_of_boxes_still_verifies(bundle, capsys):
    rewrite(bundle, lambda content: content["artifacts"][0].pop("expected_count"))
    assert verify.main([str(bundle)]) == 0
    assert capsys.readouterr().err == ""


def test_nan_in_bundle_json_is_a_broken_bundle_and_not_a_missing_one(bundle, capsys):
    rewrite(bundle, lambda content: content["artifacts"][0].update(min_score=float("nan")))
    said = refused(bundle, capsys)
    assert f"{bundle / 'bundle.json'}: is broken (NaN is no number of JSON)" in said
    assert "no bundle" not in said


def test_a_failing_artifact_is_an_error_on_stderr_besides_the_table(bundle, capsys):
    rewrite(bundle, lambda content: _move(content["artifacts"][0]["expected"][0][2]))
    assert verify.main([str(bundle)]) == 6
    said = capsys.readouterr()
    assert "failed" in said.out
    assert said.err.startswith(f"error: {bundle}: 1 of 1 artifact failed, the first: ")
    assert said.err.count("\n") == 1


def _move(box: list[float]) -> None:
    box[0] += 5
