"""Recipes: every mistake at once, with its line, in the user's words."""

import json
from pathlib import Path

import pytest

from compress.recipe import Recipe, load_recipe
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
    assert second == '11: train.epochs: expected a whole number, found "two"'


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


TWO = GOOD.replace(
    """\
  detector: {type: gfl, backbone: resnet18}
  train: {epochs: 1}
""",
    """\
  - detector: {type: gfl, backbone: resnet18}
    train: {epochs: 1}
  - detector: {type: gfl, backbone: resnet34}
    train: {epochs: 3}
""",
)


def test_a_teacher_may_be_one_or_a_list(tmp_path: Path) -> None:
    one, _ = load_recipe(write(tmp_path, GOOD))
    two, _ = load_recipe(write(tmp_path, TWO))
    assert [t.train.epochs for t in two.teachers if t.train] == [1, 3]
    assert (one.teacher_keys(0), two.teacher_keys(1)) == (("teacher",), ("teacher", 1))
    for recipe in (one, two):
        assert Recipe.model_validate_json(json.dumps(recipe.resolved())) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        (TWO.replace("epochs: 3", "epoch: 3"), [], "8: teacher[1].train.epoch: unknown key"),
        (TWO.replace("resnet34", "resnet43"), [], "7: teacher[1].detector.backbone: unknown"),
        (TWO.replace("    train: {epochs: 3}\n", ""), [], "7: teacher[1]: give exactly one of"),
        (TWO, ["teacher.1.train.lr=x"], "command line: teacher.1.train.lr=x: teacher[1].train.lr:"),
        (TWO, ["teacher.2.strict=no"], "command line: teacher.2.strict=no: the recipe's list has"),
        (
            GOOD.replace("  train: {epochs: 1}", "  train: {epoch: 1}"),
            [],
            "6: teacher.train.epoch:",
        ),
        (
            GOOD,
            ["student.type=gfll"],
            "7: student (with student.type=gfll of the command line): 'gfll' is not one of",
        ),
        (
            GOOD,
            ["student.type=yolo"],
            "command line: student.type=yolo: student.model: is missing",
        ),
        (GOOD, ["teacher=[]"], "command line: teacher=[]: teacher: expected a list of at least 1 "),
        (GOOD, ["teacher=3"], "command line: teacher=3: teacher: expected a section"),
        (
            GOOD,
            ["teacher.classes=[a]"],
            "command line: teacher.classes=[a]: teacher.classes: classes is only for a loaded",
        ),
        (GOOD, ["teacher.precision=fp8"], "command line: teacher.precision=fp8: teacher.precision"),
    ],
)
def test_a_mistake_in_one_teacher_says_which(
    tmp_path: Path, text: str, overrides: list[str], said: str
) -> None:
    assert mistakes(tmp_path, text, *overrides)[0].startswith(said)


def test_a_mistake_in_a_wrapped_method_says_where(tmp_path: Path) -> None:
    text = GOOD.replace(
        "{type: defeat, object_weight: 2}", "{type: ikd, base: {type: gid, nmsiou: 1}}"
    )
    assert mistakes(tmp_path, text)[0].startswith("9: distill[0].base.nmsiou: unknown key; did you")


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
    assert recipe.distill[0].model_dump()["object_weight"] == 5
    assert load_recipe(path, ["distill=[]"])[0].distill == ()


def test_an_override_of_steps_takes_the_files_epochs_out(tmp_path: Path) -> None:
    recipe, _ = load_recipe(write(tmp_path, GOOD), ["train.steps=9"])
    assert (recipe.train.steps, recipe.train.epochs) == (9, None)


def test_an_override_beyond_a_list_or_without_a_value_is_refused(tmp_path: Path) -> None:
    assert "1 entry," in mistakes(tmp_path, GOOD, "distill.3.weight=1")[0]
    assert "write key=value" in mistakes(tmp_path, GOOD, "train.epochs")[0]


def test_yaml_that_would_build_objects_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace("name: tiny", "name: !!python/object/apply:os.system ['true']")
    (line,) = mistakes(tmp_path, text)
    assert line.startswith("2: name: is not plain YAML")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "mapping of sections"),
        ("a: [1, 2\n", "is not plain YAML"),
        (GOOD + "name: again\n", "stands twice"),
        (GOOD.replace("name: tiny", "name: ../elsewhere"), "does not fit"),
        (GOOD.replace("lr: 1e-3", "lr: .nan"), "12: train.lr: expected a finite number"),
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
    assert load_recipe(path)[1].at("distill", 0) == f"{path}:9: distill[0]"
    _, source = load_recipe(path, ["student.backbone=resnet34"])
    assert source.at("student", "backbone").startswith("command line: student.")


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe, _ = load_recipe(write(tmp_path, GOOD))
    assert Recipe.model_validate_json(json.dumps(recipe.resolved())) == recipe


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("train.lr=1e-3", "train.lr=2e-3"),
        ("train.epochs=1", "train.epochs=1"),
        ("distill.0.weight=1", "distill.0.weight=2"),
    ],
)
def test_an_override_that_replaces_another_is_refused(
    tmp_path: Path, first: str, second: str
) -> None:
    assert mistakes(tmp_path, GOOD, first, second) == [
        f"command line: {second}: replaces {first}, which is given too; give one of them"
    ]


def test_an_override_may_change_a_key_of_a_section_given_before(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD, encoding="utf-8")
    recipe, _ = load_recipe(path, ["train={epochs: 2, batch: 4}", "train.epochs=1"])
    assert (recipe.train.epochs, recipe.train.batch) == (1, 4)
