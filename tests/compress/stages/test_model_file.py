"""A model's file alone is enough to rebuild the detector and to predict with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.detectors import DetectorConfig
from compress.detectors.small_pairs import NAMED, detector_settings
from compress.parts.weights import load_weights, read_metadata, save_weights
from compress.recipe import TeacherConfig, load_recipe
from compress.stages.fit import torch_manifest
from compress.stages.model_file import (
    describe_model,
    load_detector,
    read_model_metadata,
    save_model,
)
from compress.stages.opened import Run
from compress.stages.teachers import teacher_folder
from compress.stages.torch_engine import TorchEngine
from export.errors import ExportError, RecipeError
from tests.compress.detectors.small import CONFIG, EACH_FAMILY, small_detector
from tests.compress.smoke import opened_smoke, write_smoke

pytestmark = pytest.mark.usefixtures("small_rtdetr")


def settings_of(family: str) -> DetectorConfig:
    settings = {
        "type": family,
        "model": NAMED.get(family, ("",))[0],
        "backbone": {"type": "slim_resnet", "widths": [16, 16, 16, 16]},
        "width": 16,
        "strides": [8, 16],
        "backbone_weights": "elsewhere.pth",
    }
    known = detector_settings()[family].model_fields
    return CONFIG.validate_json(json.dumps({k: v for k, v in settings.items() if k in known}))


def reopened(folder: Path, **sections: object) -> Run:
    """Open the smoke recipe with other sections."""
    run = opened_smoke(folder)
    return Run.open(run.session, run.recipe.model_copy(update=sections), run.source)


def write_model(folder: Path, family: str = "gfl") -> Path:
    """Save an untrained student of the smoke recipe as a run saves its students."""
    run = reopened(folder, student=settings_of(family))
    recipe, detector = run.recipe, run.build_student(seed=3)
    manifest = torch_manifest(detector, run.data, recipe.export, "seed3-student")
    metadata = describe_model(recipe.student, manifest, recipe.resolved())
    save_model(detector.state_dict(), metadata, folder / "model.safetensors")
    return folder / "model.safetensors"


def rewrite(path: Path, text: str) -> Path:
    """Put other metadata beside the tensors of `path`."""
    save_file(load_file(path), path, {"slimdet": text})
    return path


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_every_family_is_rebuilt_from_its_file_alone(tmp_path: Path, family: str) -> None:
    path = write_model(tmp_path, family)
    state = torch.get_rng_state()
    loaded = load_detector(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert not loaded.detector.training
    assert loaded.detector.spec.family == family
    assert loaded.detector.spec.classes == loaded.metadata.classes
    assert loaded.metadata.input_size == (64, 64)
    saved = load_file(path)
    assert all(torch.equal(saved[n], t) for n, t in loaded.detector.state_dict().items())
    with TorchEngine(loaded.detector, loaded.metadata.manifest) as engine:
        assert engine.candidates(np.zeros((1, 3, 64, 64), np.float32)).scores.shape[0] == 1


def test_the_description_holds_settings_thresholds_and_recipe(tmp_path: Path) -> None:
    metadata = read_model_metadata(write_model(tmp_path))
    recipe, _ = load_recipe(write_smoke(tmp_path))
    assert metadata.detector.backbone_weights is None
    assert metadata.manifest.nms.iou == recipe.export.nms_iou
    assert metadata.manifest.score_threshold == recipe.export.score_threshold
    assert metadata.recipe["student"] == {
        **metadata.detector.model_dump(mode="json"),
        "backbone_weights": "elsewhere.pth",
    }
    assert type(recipe).model_validate_json(json.dumps(metadata.recipe)).name == "smoke"


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = write_model(tmp_path / "a"), write_model(tmp_path / "b")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "description of the model is damaged"),
        ("[]", "has schema None"),
        ('{"schema": 2}', "has schema 2, and this version reads schema 1"),
        ('{"schema": 1}', "detector: is missing, and has no default"),
    ],
)
def test_a_description_that_cannot_be_used_says_why(
    tmp_path: Path, text: str, message: str
) -> None:
    path = rewrite(write_model(tmp_path), text)
    with pytest.raises(ExportError, match=message) as caught:
        load_detector(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ExportError, match="there is no such file"):
        read_model_metadata(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ExportError, match="is not a whole safetensors file"):
        read_model_metadata(path)
    whole = write_model(tmp_path).read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(ExportError, match="is not a whole safetensors file"):
        load_detector(path)


def test_a_file_without_a_description_is_weights_and_no_model(tmp_path: Path) -> None:
    path, detector = tmp_path / "old.safetensors", small_detector("gfl")
    save_weights(detector.state_dict(), path)
    assert read_metadata(path) is None
    with pytest.raises(ExportError, match=r"without a description.*teacher\.detector\.weights"):
        load_detector(path)
    assert load_weights(detector, path, strict=True, what="teacher").complete


def test_tensors_of_another_model_are_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    text = read_metadata(path)
    assert text is not None
    rewrite(path, text.replace('"width": 16', '"width": 32', 1))
    with pytest.raises(ExportError, match=r"contradict each other.*mismatched"):
        load_detector(path)


def test_a_model_that_no_machine_holds_is_compared_before_it_is_built(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    found = json.loads(read_metadata(path) or "")
    found["detector"]["backbone"] |= {"widths": [4096] * 4, "blocks": [10] * 4}  # 48 GB
    rewrite(path, json.dumps(found))
    with pytest.raises(ExportError, match=r"contradict each other.*mismatched"):
        load_detector(path)


def test_weights_that_do_not_fit_say_what_their_file_holds(tmp_path: Path) -> None:
    path = write_model(tmp_path, "fcos")
    with pytest.raises(RecipeError, match=r'says that it holds .*"type": "fcos".*64 x 64'):
        load_weights(small_detector("gfl"), path, strict=True, what="teacher")


def damaged(value: Any) -> str:
    return json.dumps({"detector": value, "manifest": value})


@pytest.mark.parametrize("value", [None, 3, [], {"classes": 3}])
def test_a_damaged_description_does_not_hide_why_weights_do_not_fit(
    tmp_path: Path, value: Any
) -> None:
    path = rewrite(write_model(tmp_path, "fcos"), damaged(value))
    with pytest.raises(RecipeError, match="not the weights of this teacher"):
        load_weights(small_detector("gfl"), path, strict=True, what="teacher")


@pytest.mark.slow
def test_every_model_of_a_run_describes_itself(finished_run: Path) -> None:
    home = finished_run / "runs" / "smoke"
    folders = sorted(path for path in (home / "models").iterdir() if path.is_dir())
    students = [f"seed{seed}-{role}" for seed in (0, 1) for role in ("baseline", "student")]
    assert [folder.name for folder in folders] == [*students, "teacher"]
    lock = json.loads((home / "recipe.lock.json").read_text(encoding="utf-8"))
    for folder in folders:
        metadata = read_model_metadata(folder / "model.safetensors")
        assert metadata.manifest.model == folder.name
        assert metadata.recipe == lock


def test_a_loaded_teacher_describes_itself(tmp_path: Path) -> None:
    weights = write_model(tmp_path)
    detector = settings_of("gfl").model_copy(update={"weights": weights, "backbone_weights": None})
    run = reopened(tmp_path, teacher=TeacherConfig(detector=detector))
    folder = teacher_folder(run, run.teachers[0])
    metadata = read_model_metadata(folder / "model.safetensors")
    assert metadata.manifest.model == "teacher"
    assert metadata.detector == detector.model_copy(update={"weights": None})
    assert load_detector(folder / "model.safetensors").metadata == metadata
