"""Recipes: every mistake at once, with its line, in the user's words."""

from pathlib import Path

import pytest

from compress.recipe import Recipe, load_recipe
from compress.recipe_file import place
from export.errors import RecipeError

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
GOOD = """\
schema: 1
name: tiny
data: {type: shapes, image_size: 64, train: {count: 8}, val: {count: 4}}
teacher:
  detector: {type: gfl, backbone: resnet18}
  train: {epochs: 1}
student: {type: gfl, backbone: resnet18}
distill:
  - {type: defeat, object_weight: 2}
train:
  epochs: 2
  lr: 1e-3
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_shipped_recipe_is_valid_and_named_after_its_file(path: Path) -> None:
    recipe, _ = load_recipe(path)
    assert recipe.name == path.stem


def test_an_exponent_without_a_dot_is_a_number(tmp_path: Path) -> None:
    recipe, _ = load_recipe(write(tmp_path, GOOD))
    assert recipe.train.lr == 0.001


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = GOOD.replace("object_weight: 2", "object_weigth: 2").replace("epochs: 2", "epochs: two")
    first, second = mistakes(tmp_path, text)
    assert first.startswith(
        "9: distill[0].object_weigth: unknown key; did you mean 'object_weight'"
    )
    assert second == '11: train.epochs: should be a valid integer (found "two")'


def test_an_unknown_type_names_the_nearest_and_all(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, GOOD.replace("type: defeat", "type: defeet"))
    assert line.startswith("9: distill[0]: 'defeet' is not one of the allowed values")
    assert "did you mean 'defeat'" in line
    assert "gid" in line


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    text = GOOD.replace("student: {type: gfl, backbone: resnet18}\n", "")
    assert mistakes(tmp_path, text) == ["1: student: is missing, and has no default"]


def test_an_unknown_backbone_names_the_nearest(tmp_path: Path) -> None:
    (line,) = mistakes(
        tmp_path,
        GOOD.replace(
            "student: {type: gfl, backbone: resnet18}", "student: {type: gfl, backbone: resnet81}"
        ),
    )
    assert line.startswith(
        "7: student.backbone: unknown backbone 'resnet81'; did you mean resnet18"
    )


def test_an_override_is_blamed_on_the_command_line(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, GOOD, "train.lr=fast", "distill.0.wait=1", "baselin.enabled=false")
    assert [line.split(": ")[1] for line in sorted(lines)] == [
        "baselin.enabled=false",
        "distill.0.wait=1",
        "train.lr=fast",
    ]


def test_overrides_reach_sections_lists_and_new_keys(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    recipe, _ = load_recipe(path, ["train.epochs=7", "distill.0.object_weight=5", "seeds=3"])
    assert (recipe.train.epochs, recipe.seeds) == (7, 3)
    assert recipe.resolved()["distill"][0]["object_weight"] == 5
    assert load_recipe(path, ["distill=[]"])[0].distill == ()


def test_an_override_of_steps_takes_the_files_epochs_out(tmp_path: Path) -> None:
    recipe, _ = load_recipe(write(tmp_path, GOOD), ["train.steps=9"])
    assert (recipe.train.steps, recipe.train.epochs) == (9, None)


def test_an_override_beyond_a_list_or_without_a_value_is_refused(tmp_path: Path) -> None:
    assert "1 entries" in mistakes(tmp_path, GOOD, "distill.3.weight=1")[0]
    assert "write key=value" in mistakes(tmp_path, GOOD, "train.epochs")[0]


def test_yaml_that_would_build_objects_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace("name: tiny", "name: !!python/object/apply:os.system ['true']")
    (line,) = mistakes(tmp_path, text)
    assert line.startswith("2: is not plain YAML")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "mapping of sections"),
        ("a: [1, 2\n", "is not plain YAML"),
        (GOOD + "name: again\n", "stands twice"),
        (GOOD.replace("name: tiny", "name: ../elsewhere"), "does not fit"),
        (GOOD.replace("lr: 1e-3", "lr: .nan"), "no text, number or list"),
        (GOOD.replace("epochs: 2", "epochs: 2\n  steps: 3"), "exactly one of epochs and steps"),
    ],
)
def test_a_file_that_is_no_recipe_says_why(tmp_path: Path, text: str, said: str) -> None:
    assert any(said in line for line in mistakes(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(tmp_path / "nothing.yaml")


def test_a_late_mistake_finds_its_line_or_its_override(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert place(path, GOOD, [], ("distill", 0)) == f"{path}:9: distill[0]"
    overrides = ["student.backbone=resnet34"]
    assert place(path, GOOD, overrides, ("student", "backbone")).startswith(
        "command line: student."
    )


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    import json

    recipe, _ = load_recipe(write(tmp_path, GOOD))
    assert Recipe.model_validate_json(json.dumps(recipe.resolved())) == recipe
