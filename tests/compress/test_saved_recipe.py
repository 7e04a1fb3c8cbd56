"""The recipe that a run keeps: complete, and a recipe for the same run."""

import json
from pathlib import Path

import pytest

from compress.recipe import Recipe, load_recipe, read_recipe
from compress.recipe_file import complete_text, read_source
from compress.run import main
from compress.stages.rundir import open_run
from export.errors import RecipeError
from tests.compress.smoke import SMOKE, write_smoke

QUICKSTART = (Path(__file__).parents[2] / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
MERGED = SMOKE.replace("student: *tiny\n", "student:\n  <<: *tiny\n  width: 8\n")
OVERRIDES = [
    ["name=other", "seeds=3", "train.lr=1e-3"],
    ["train.epochs=2"],  # takes steps out
    ["train.steps=2"],
    ["distill=[]", "baseline={enabled: false}", "export.nms=graph"],
    ["distill.1.weight=auto", "distill.0={type: pkd, ratio: 0.5}"],
    ["train.amp='off'", "distill=[{type: gid, relation_scope: 'image'}]"],
    ["student.width=32", "teacher.detector.head_depth=2"],
    ["teacher.detector={type: gfl, backbone: resnet18}"],
    ["train.amp=bf16", "train=null", "train={steps: 3, batch: 4}"],
    ["gates={reference: there, max_ap_drop: 1}"],
    ["baseline.enabled=true\n"],
]


@pytest.mark.parametrize("text", [QUICKSTART, SMOKE, MERGED], ids=["quickstart", "smoke", "merged"])
@pytest.mark.parametrize("overrides", OVERRIDES, ids=lambda given: given[0].partition("=")[0])
def test_the_complete_text_reads_as_the_recipe_with_its_overrides(
    tmp_path: Path, text: str, overrides: list[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    recipe, source = load_recipe(path, overrides)
    saved = tmp_path / "saved.yaml"
    saved.write_text(complete_text(source), encoding="utf-8")
    assert load_recipe(saved)[0] == recipe


def test_without_overrides_the_text_is_the_users_to_the_byte(tmp_path: Path) -> None:
    path = write_smoke(tmp_path)
    assert complete_text(load_recipe(path)[1]) == SMOKE


def test_comments_and_order_stay_and_the_overrides_are_told(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(QUICKSTART, encoding="utf-8")
    text = complete_text(load_recipe(path, ["seeds=3", "train.steps=2"])[1])
    told, rest = text.split("\n#   train.steps=2\n")
    assert told == (f"# {path}, with these settings of the command line in place:\n#   seeds=3")
    before, after = QUICKSTART.splitlines(), rest.splitlines()[1:]  # without the header's last
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert changed == [
        (
            "seeds: 1                      # 3 trains student and baseline three times and "
            "gives an interval",
            "seeds: 3                      # 3 trains student and baseline three times and "
            "gives an interval",
        ),
        ("  steps: 2000", "  steps: 2"),
    ]


def test_an_edit_under_an_alias_leaves_the_other_place_alone(tmp_path: Path) -> None:
    recipe, source = load_recipe(write_smoke(tmp_path), ["student.width=32"])
    assert "width: 32" in complete_text(source)
    assert (recipe.teachers[0].detector.width, recipe.student.width) == (16, 32)


def test_a_text_that_cannot_be_edited_is_written_without_comments(tmp_path: Path) -> None:
    text = "? seed  # comment\n: 3\nbaseline: {enabled: on}\n"
    source = read_source(Recipe, tmp_path / "recipe.yaml", text, ["seeds=2"])
    text = complete_text(source)
    assert "# comment" not in text
    expected = {"seed": 3, "baseline": {"enabled": True}, "seeds": 2}
    assert read_source(Recipe, None, text).tree == source.tree == expected


def test_a_run_goes_on_from_the_recipe_that_it_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, source = load_recipe(write_smoke(tmp_path), ["name=mine", "train.batch=2"])
    home = open_run(tmp_path, recipe.name, recipe.resolved(), complete_text(source))
    kept = home / "recipe.yaml"
    assert main([str(kept), "--check", "--runs", str(tmp_path)]) == 0
    assert f"would resume in {home}" in capsys.readouterr().err
    again, _ = load_recipe(kept)
    assert open_run(tmp_path, again.name, again.resolved(), "", Recipe.resolved_anew) == home


def test_settings_given_in_python_are_a_recipe_and_are_kept_as_one(tmp_path: Path) -> None:
    from_file, source = load_recipe(write_smoke(tmp_path))
    recipe, given = read_recipe(source.tree, ["train.batch=2"])
    assert recipe == load_recipe(tmp_path / "recipe.yaml", ["train.batch=2"])[0]
    saved = tmp_path / "saved.yaml"
    saved.write_text(complete_text(given), encoding="utf-8")
    assert load_recipe(saved)[0] == recipe
    folder = {"type": "folder", "root": tmp_path / "pictures", "image_size": 64}
    data = read_recipe({**source.tree, "data": folder})[0].data
    assert json.loads(data.model_dump_json())["root"] == str(tmp_path / "pictures")
    assert from_file.data != data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../elsewhere"}, "name: '../elsewhere' does not fit"),
        ({"student": {"type": "gfl"}}, "student.backbone: is missing"),
        ({"seed": object()}, "seed: holds a value that is no text, number or list"),
        ({"seed": float("nan")}, "seed: expected a finite number, found nan"),
    ],
)
def test_mistakes_in_settings_given_in_python_are_told_by_key(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    _, source = load_recipe(write_smoke(tmp_path))
    with pytest.raises(RecipeError) as caught:
        read_recipe({**source.tree, **change})
    assert str(caught.value).startswith(said)
