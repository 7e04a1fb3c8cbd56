"""A recipe without teacher and distillation: one detector, from data to report."""

import json
from pathlib import Path
from textwrap import indent

import pytest

from compress.recipe import Recipe, load_recipe
from compress.run import main
from export.errors import RecipeError
from tests.compress.smoke import SMOKE, TINY, write_smoke

ALONE = (
    """\
schema: 1
name: alone
data: {type: shapes, image_size: 64, train: {count: 8}, val: {count: 4}}
student:
"""
    + indent(TINY, "  ")
    + """\
train: {steps: 4, batch: 4, evaluations: 2, amp: "off", checkpoint_every_s: 0.001}
export: {precisions: [fp32, int8], parity_images: 2, calibration: {count: 4}}
benchmark: {repeats: 1, blocks: 2, calls_per_block: 2, warmup: 1, images: 2, throughput_batches: []}
"""
)


def write(folder: Path, text: str = ALONE) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_without_teacher_reads_back_from_its_lock(tmp_path: Path) -> None:
    recipe, _ = load_recipe(write(tmp_path))
    assert recipe.teachers == ()
    assert not recipe.has_baseline
    assert "baseline" not in recipe.resolved()
    assert Recipe.model_validate_json(json.dumps(recipe.resolved())) == recipe
    assert load_recipe(write(tmp_path), ["baseline.enabled=false"])[0].resolved() == (
        recipe.resolved()
    )


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("distill:\n  - {type: defeat}\n", "15: distill: needs a teacher; add the section teacher"),
        ("inherit: neck+head\n", "15: inherit: needs a teacher"),
        ("baseline: {equal_time: true}\n", "15: baseline: needs a teacher"),
        ("baseline: {enabled: true}\n", "15: baseline: needs a teacher"),
    ],
)
def test_what_needs_a_teacher_is_refused_without_one(tmp_path: Path, added: str, said: str) -> None:
    path = write(tmp_path, ALONE + added)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}:{said}")


def test_a_wrong_teacher_is_the_only_mistake_that_is_told(tmp_path: Path) -> None:
    path = write_smoke(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ["teacher.detector.width=narrow"])
    assert len(str(caught.value).splitlines()) == 1
    assert "teacher.detector.width" in str(caught.value)


def test_a_teacher_that_is_not_said_to_teach_is_refused(tmp_path: Path) -> None:
    taught = SMOKE.index("distill:"), SMOKE.index("train: {steps")
    path = write(tmp_path, SMOKE[: taught[0]] + SMOKE[taught[1] :])
    with pytest.raises(RecipeError, match="distill is missing: the recipe has a teacher"):
        load_recipe(path)
    assert load_recipe(path, ["distill=[]"])[0].teachers
    assert not load_recipe(path, ["teacher=null"])[0].teachers


def test_pictures_without_labels_are_refused_without_a_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path)
    assert main([str(path), "--check", "--runs", str(tmp_path), "data.unlabeled={count: 4}"]) == 2
    assert "data.unlabeled: pictures without labels are for distill" in capsys.readouterr().err


def test_check_plans_one_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(write(tmp_path)), "--check", "--json", "--runs", str(tmp_path)]
    assert main([*command, "seeds=2"]) == 0
    captured = capsys.readouterr()
    stages = json.loads(captured.out)["check"]["stages"]
    assert [stage["name"] for stage in stages] == ["seed0-student", "seed1-student"]
    assert "teacher gfl" not in captured.err
    assert "distillation: none; without a teacher one detector is trained" in captured.err


@pytest.mark.slow
def test_one_detector_goes_from_data_to_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(write(tmp_path)), "--runs", str(tmp_path), "--json"]
    assert main([*command, "train.batch=2", "data.val.split=train"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    home = tmp_path / "alone"
    assert (said["ok"], said["gain"]) == (True, None)
    made = {path.name for path in (home / "models").iterdir()}
    assert made == {"seed0-student", ".seed0-student.sha256"}
    assert (home / "bundle.tar.gz").is_file()

    report = json.loads((home / "report" / "report.json").read_text())
    assert [(r["model"], r["backend"], r["precision"]) for r in report["rows"]] == [
        ("student", "torch", "fp32"),
        ("student", "onnxruntime", "fp32"),
        ("student", "onnxruntime", "int8"),
    ]
    assert (report["gain"], report["speed"]) == (None, [])
    assert report["warnings"][0].startswith("4 pictures of val are also in train (shapes/")
    (note,) = [n for n in report["notes"] if n.startswith("One detector was trained")]
    assert note.startswith("One detector was trained without a teacher")
    told = (home / "report" / "report.md").read_text().replace(note, "")
    for word in ("baseline", "istillation", "eacher", "gained"):
        assert word not in told, word

    # the recipe that it kept goes on with it; gates compare it with itself
    command[0] = str(home / "recipe.yaml")
    assert main([*command, f"gates={{reference: {home}, max_ap_drop: 0}}"]) == 0
    assert "seed0-student: already trained, kept" in capsys.readouterr().err
