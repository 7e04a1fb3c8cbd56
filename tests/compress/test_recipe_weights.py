"""A weights file that states its detector's settings completes the recipe, and is held to it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compress.console import Console
from compress.parts.weights import read_metadata
from compress.recipe import read_recipe
from compress.recipe_weights import described
from compress.stages.model_file import read_model_metadata
from compress.stages.opened import Run
from compress.stages.session import Session
from export.errors import RecipeError
from tests.compress.foreign.saved import checkpoint, network, save
from tests.compress.stages.test_model_file import rewrite, write_model
from tests.slimdet.test_running import smoke


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_model(tmp_path)


def settings(**sections: Any) -> dict[str, Any]:
    return {**smoke(), **sections}


def test_weights_alone_give_the_settings_of_teacher_and_student(file: Path) -> None:
    recipe, source = read_recipe(
        settings(teacher={"detector": {"weights": file}}, student={"weights": file})
    )
    whole = {"type": "gfl", "width": 16, "strides": (8, 16), "pre_nms": 1000}
    for detector in (recipe.teachers[0].detector, recipe.student):
        assert {key: getattr(detector, key) for key in whole} == whole
        assert detector.backbone == recipe.teachers[0].detector.backbone
        assert detector.weights == file
        assert detector.backbone_weights is None
    assert source.tree["student"] == {"weights": str(file)}  # as the recipe is saved


def test_settings_that_agree_may_be_repeated(file: Path) -> None:
    given = {
        "weights": file,
        "type": "gfl",
        "backbone": {"type": "slim_resnet", "widths": [16, 16, 16, 16]},
        "pre_nms": 50,
        "anchor_scale": None,
    }
    recipe, _ = read_recipe(settings(student=given))
    assert (recipe.student.pre_nms, recipe.student.anchor_scale) == (50, None)
    with pytest.raises(RecipeError, match=r"student\.anchor_scale: found 5\.0, expected null"):
        read_recipe(settings(student={**given, "anchor_scale": 5.0}))


def test_what_contradicts_a_file_is_told_by_key_found_and_expected(file: Path) -> None:
    teacher = {"detector": {"weights": file, "width": 32}, "classes": ["disk"]}
    with pytest.raises(RecipeError) as caught:
        read_recipe(settings(teacher=[teacher], student={"weights": file, "type": "ssd"}))
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "teacher[0].detector.width",
        "student.type",
        "teacher[0].classes",
    ]
    assert f"found 32, expected 16, which {file} was trained with" in lines[0]
    assert 'found "ssd", expected "gfl"' in lines[1]
    assert 'found ["disk"], expected ["disk", "ring",' in lines[2]


def test_a_teacher_that_may_match_in_part_is_not_held_to_its_file(file: Path) -> None:
    teacher = {"detector": {"weights": file, "width": 32}, "strict": False}
    recipe, _ = read_recipe(settings(teacher=teacher))
    assert recipe.teachers[0].detector.width == 32


def test_weights_alone_that_state_nothing_are_refused(file: Path) -> None:
    rewrite(file, "{}")
    with pytest.raises(RecipeError, match=r"student\.weights: .* does not state the settings"):
        read_recipe(settings(student={"weights": file}))


@pytest.mark.parametrize("classes", [[], ["disk", "disk"]])
def test_a_teacher_s_file_with_classes_that_are_none_is_refused(
    file: Path, classes: list[str]
) -> None:
    content = json.loads(read_metadata(file) or "")
    content["manifest"]["classes"] = classes
    rewrite(file, json.dumps(content))
    with pytest.raises(RecipeError, match=r"teacher\.detector\.weights: found the classes \["):
        read_recipe(settings(teacher={"detector": {"weights": file}}))


def test_metadata_nested_too_deeply_is_told(tmp_path: Path) -> None:
    deep = tmp_path / "deep.safetensors"
    save_file({"a": torch.zeros(1)}, deep, {"slimdet": "[" * 5000})
    with pytest.raises(RecipeError, match=r"student\.weights: .*deep\.safetensors does not state"):
        read_recipe(settings(student={"weights": str(deep)}))
    assert described(deep) is None


def test_a_loaded_teacher_knows_the_classes_of_its_file(file: Path, tmp_path: Path) -> None:
    said = read_model_metadata(file).model_dump(mode="json", by_alias=True)
    said["manifest"]["classes"][:2] = ["ring", "disk"]
    rewrite(file, json.dumps(said))
    recipe, source = read_recipe(settings(teacher={"detector": {"weights": file}}))
    run = Run.open(Session(tmp_path / "run", "cpu", Console(quiet=True)), recipe, source)
    assert run.teachers[0].classes[:3] == ("ring", "disk", "square")
    assert recipe.teachers[0].classes is None  # so that the lock of a run does not change


def test_a_student_s_weights_of_other_classes_than_the_data_s_are_refused(
    file: Path, tmp_path: Path
) -> None:
    recipe, source = read_recipe(settings(student={"weights": file}))
    session = Session(tmp_path / "run", "cpu", Console(quiet=True))
    Run.open(session, recipe, source)
    said = read_model_metadata(file).model_dump(mode="json", by_alias=True)
    said["manifest"]["classes"][:2] = ["ring", "disk"]
    rewrite(file, json.dumps(said))
    with pytest.raises(RecipeError, match=r"^student\.weights: found the classes ring, disk, "):
        Run.open(session, recipe, source)


def test_a_checkpoint_of_ultralytics_states_family_network_and_classes(tmp_path: Path) -> None:
    model, classes = network()
    saved = save(tmp_path / "best.pt", checkpoint(model), classes)
    assert described(saved) == ({"type": "yolo", "model": "yolo11n"}, ("red", "white"))
    model.yaml = {"yaml_file": "mine.yaml"}
    saved = save(tmp_path / "own.pt", checkpoint(model), classes)
    assert described(saved) == ({"type": "yolo"}, ("red", "white"))


def test_a_checkpoint_alone_gives_the_settings_of_teacher_and_student(tmp_path: Path) -> None:
    model, classes = network()
    file = save(tmp_path / "best.pt", checkpoint(model), classes)
    recipe, _ = read_recipe(
        settings(teacher={"detector": {"weights": file}}, student={"weights": file})
    )
    for detector in (recipe.teachers[0].detector, recipe.student):
        assert (detector.type, getattr(detector, "model", None)) == ("yolo", "yolo11n")


def test_a_checkpoint_contradicts_the_recipe_by_key(tmp_path: Path) -> None:
    model, classes = network()
    file = save(tmp_path / "best.pt", checkpoint(model), classes)
    teacher = {"detector": {"weights": file, "model": "yolo11s"}, "classes": ["white", "red"]}
    with pytest.raises(RecipeError) as caught:
        read_recipe(settings(teacher=teacher, student={"weights": file, "type": "gfl"}))
    assert str(caught.value).splitlines() == [
        f'teacher.detector.model: found "yolo11s", expected "yolo11n", which {file} was trained '
        "with; correct it or leave it out",
        f'student.type: found "gfl", expected "yolo", which {file} was trained with; correct it or '
        "leave it out",
        f'teacher.classes: found ["white", "red"], expected ["red", "white"], the classes of '
        f"{file}; leave it out, or set strict: false to go by the recipe's",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("best.pt", b"", r"best\.pt is empty; fetch or save it again"),
        ("runs", None, r"runs is a folder; name the file of weights in it"),
        ("x.onnx", b"graph", r"is an ONNX file, .* \{type: onnx, model: .*x\.onnx\} in place of"),
    ],
)
def test_what_holds_no_weights_is_named_as_what_it_is(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=rf"^student\.weights: .*{said}"):
        read_recipe(settings(student={"weights": path}))


def test_a_checkpoint_alone_that_cannot_be_used_is_refused_where_it_is_named(
    tmp_path: Path,
) -> None:
    model, classes = network("SegmentationModel")
    file = save(tmp_path / "best.pt", checkpoint(model), classes)
    with pytest.raises(RecipeError, match=r"^student\.weights: .*best\.pt: holds a Segmentation"):
        read_recipe(settings(student={"weights": file}))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    with pytest.raises(RecipeError, match=r"does not state the settings.*give type, backbone or m"):
        read_recipe(settings(student={"weights": tmp_path / "state.pt"}))
