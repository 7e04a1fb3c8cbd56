"""A model carries the licences of its code, of its teachers, and of the weights it began from."""

from dataclasses import replace
from pathlib import Path

import pytest

from compress.recipe_weights import stated_licences
from compress.stages.fit import torch_manifest
from compress.stages.model_file import describe_model, save_model
from compress.stages.model_name import ModelName
from compress.stages.opened import Run
from compress.stages.teachers import teacher_folder
from export.artifact.manifest import NOTICE
from tests.compress.smoke import opened_smoke

YOLO = "ultralytics 8.4.190 (AGPL-3.0)"
BEGUN = f"{YOLO}, in the weights that a model began from"
TEACHER, STUDENT = ModelName.of_teacher(0), ModelName(0, "student")
BASELINE = ModelName(0, "baseline")


def write_model(folder: Path, licence: str) -> Path:
    """Save an untrained student that a teacher of this licence taught."""
    run = opened_smoke(folder)
    detector = run.build_student(seed=0)
    manifest = torch_manifest(detector, run.data, run.recipe.export, "seed0-student", [licence])
    metadata = describe_model(run.recipe.student, manifest, run.recipe.resolved())
    path = folder / "student.safetensors"
    save_model(detector.state_dict(), metadata, path)
    return path


def begun_from(folder: Path, weights: Path, *overrides: str) -> Run:
    loaded = f"teacher={{detector: {{weights: {weights}}}}}"
    return opened_smoke(folder, loaded, *overrides)


def test_a_teacher_s_licence_goes_to_what_learns_from_it_alone(tmp_path: Path) -> None:
    run, own = opened_smoke(tmp_path), {TEACHER: YOLO}
    assert run.licences_behind(STUDENT, own) == [YOLO]
    assert run.licences_behind(BASELINE, own) == []
    assert run.licences_behind(TEACHER, {}) == []
    inheriting = opened_smoke(tmp_path, "inherit=neck+head")
    assert inheriting.licences_behind(BASELINE, own) == [YOLO]
    untaught = opened_smoke(tmp_path, "distill=[]")
    assert untaught.licences_behind(STUDENT, own) == []


def test_what_a_weights_file_states_is_passed_on(tmp_path: Path) -> None:
    run = begun_from(tmp_path, write_model(tmp_path, YOLO))
    assert run.licences([]) == [BEGUN]
    assert run.licences_behind(TEACHER, {}) == [BEGUN]
    assert run.licences_behind(STUDENT, {TEACHER: ""}) == ["", BEGUN]
    assert run.licences_behind(BASELINE, {TEACHER: ""}) == []
    folder = teacher_folder(run, run.teachers[0])
    assert stated_licences(folder / "model.safetensors") == [BEGUN]  # not twice "in the weights"


def test_a_file_that_states_none_gives_none(tmp_path: Path) -> None:
    assert stated_licences(None) == []
    assert stated_licences(tmp_path / "missing.safetensors") == []
    assert stated_licences(write_model(tmp_path, "")) == []
    (tmp_path / "best.pt").write_bytes(b"another program's")
    assert stated_licences(tmp_path / "best.pt") == []


@pytest.mark.parametrize("other", ["", BEGUN])
def test_the_code_of_a_model_stands_before_its_weights(tmp_path: Path, other: str) -> None:
    run = opened_smoke(tmp_path)
    detector = run.build_student(seed=0)
    detector.spec = replace(detector.spec, licence=YOLO)
    made = torch_manifest(detector, run.data, run.recipe.export, "student", [other]).made_by
    assert made["ultralytics"] == "8.4.190 (AGPL-3.0)"
    assert made[NOTICE].startswith(f"This run used {YOLO}. If you")
