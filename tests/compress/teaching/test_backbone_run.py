"""A backbone as the teacher of a recipe, from the check to the report."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import models

from compress.data.loading import training_batches, view_batches
from compress.detector import FEATURES
from compress.distillation.teacher import LiveTeacher
from compress.parts.backbones import Backbone
from compress.run import main
from compress.stages.opened import Run
from compress.stages.rundir import read_record, read_teaching_costs
from compress.stages.students import StudentTraining
from compress.stages.teaching.features import ask_backbone
from compress.teaching.backbone import BackboneSource, check_size
from compress.teaching.config import BackboneTeacher
from compress.teaching.maps.stored import StoredTeacher
from export.errors import RecipeError
from tests.compress.smoke import assert_refused, opened_smoke, write_smoke

PKD = "distill=[{type: pkd}]"
TEACH = "teach={views: 2}"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write random weights of a whole classifier; return the recipe's setting."""
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_file(models.mobilenet_v3_small().state_dict(), file)
    return f"teacher={{type: backbone, backbone: mobilenet_v3_small, backbone_weights: '{file}'}}"


def opened(folder: Path, *overrides: str) -> Run:
    folder.mkdir(exist_ok=True)
    run = opened_smoke(folder, *overrides)
    run.home.mkdir()
    return run


def live(run: Run) -> LiveTeacher:
    assert run.recipe.backbone_teacher is not None
    found = ask_backbone(run, run.recipe.backbone_teacher)
    assert isinstance(found, LiveTeacher)
    return found


def stored(run: Run) -> StoredTeacher:
    assert run.recipe.backbone_teacher is not None
    found = ask_backbone(run, run.recipe.backbone_teacher)
    assert isinstance(found, StoredTeacher)
    return found


def test_its_maps_are_those_of_the_weights_file(teacher: str, tmp_path: Path) -> None:
    run = opened(tmp_path, teacher, PKD)
    taught = live(run)
    assert run.recipe.teachers == ()
    assert taught.spec.provides == FEATURES
    assert taught.spec.strides == (8, 16)
    assert run.recipe.backbone_teacher is not None
    file = Path(run.recipe.backbone_teacher.backbone_weights)
    whole = models.mobilenet_v3_small().eval()
    whole.load_state_dict(load_file(file))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    with torch.no_grad():
        expected = whole.features[:4]((images - mean) / std)
    torch.testing.assert_close(taught.maps(images)[0], expected, atol=1e-4, rtol=1e-3)


class Pickier(nn.Module):
    """A body that takes pictures of 96 pixels alone, and gives one map."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        if images.shape[-1] != 96:
            raise RuntimeError("the window does not divide the map")
        return (images[:, :, ::32, ::32],)


def test_a_size_that_the_backbone_cannot_take_is_refused(tmp_path: Path) -> None:
    run = opened(tmp_path)
    spec, body = run.build_student(0).spec, Backbone(Pickier(), (3,), (32,))
    config = BackboneTeacher(type="backbone", backbone="resnet18", backbone_weights="w")
    check_size(BackboneSource(body, spec, (64, 64), seen=(96, 96)), config, (64, 64))
    with pytest.raises(RecipeError, match=r"no pictures of 64 x 64 px .*window does not divide"):
        check_size(BackboneSource(body, spec, (64, 64), seen=(64, 64)), config, (64, 64))


def test_its_pass_has_the_precision_of_the_recipe(teacher: str, tmp_path: Path) -> None:
    rounded = opened(tmp_path / "b", f"{teacher[:-1]}, precision: bf16}}", PKD)
    assert live(rounded).precision == "bf16"
    assert live(opened(tmp_path / "t", teacher, PKD)).precision == "train"
    keys = []
    for name in ("bf16", "fp32", "train"):
        run = opened(tmp_path / name, f"{teacher[:-1]}, precision: {name}}}", PKD, TEACH)
        keys.append(stored(run).store.folder.name)
    assert keys[1] == keys[2] != keys[0]


def test_a_student_learns_from_it_and_it_stays(teacher: str, tmp_path: Path) -> None:
    run = opened(tmp_path, teacher, PKD)
    taught = live(run)
    training = StudentTraining(run, [], None, [taught])
    student = run.build_student(0)
    objective = training._distilled(student, 0).train()
    (batch,) = training_batches(run.data, batch=2, seed=0, start_step=0, steps=1)
    terms = objective(batch)
    terms["pkd/feature"].backward()
    gradients = [one.grad for one in student.backbone.parameters() if one.grad is not None]
    assert sum(float(one.abs().sum()) for one in gradients) > 0
    assert objective.frozen == taught.frozen
    assert all(one.grad is None for network in taught.frozen for one in network.parameters())


def test_its_stored_maps_are_those_of_a_pass(teacher: str, tmp_path: Path) -> None:
    run = opened(tmp_path, teacher, PKD, TEACH)
    taught = stored(run)
    cost = read_teaching_costs(run.home)["teacher"]
    assert cost.views == taught.store.rows == 16
    (batch,) = view_batches(run.data, taught.views, [range(3)])
    plain = live(opened(tmp_path / "plain", teacher, PKD))
    for found, expected in zip(
        taught.outputs(batch, FEATURES).features,
        plain.outputs(batch, FEATURES).features,
        strict=True,
    ):
        torch.testing.assert_close(found.float(), expected, atol=0.01, rtol=0.002)
    other = stored(opened(tmp_path / "other", teacher, PKD, TEACH, "student.strides=[8, 16, 32]"))
    assert other.store.folder.name != taught.store.folder.name  # it has a map more


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "): gid compares dense, features, and a teacher of type backbone gives"),
        (["distill=[{type: pseudo_labels}]"], "pseudo_labels compares boxes, and a teacher of"),
        ([PKD, "inherit=neck+head"], "the teacher is of type backbone; remove inherit"),
        ([PKD, "teacher.backbone=resnet18"], "teacher.backbone_weights: "),
        ([PKD, "teacher.backbone_weights=no.safetensors"], "teacher.backbone_weights: "),
        ([PKD, "teacher.backbone={type: slim_resnet}"], "expected the name of a model that has"),
        ([PKD, "teacher.train={epochs: 1}"], "teacher.train: "),
        (
            ["distill=[{type: ikd, base: {type: pkd}, adversarial_weight: 0}]", TEACH],
            "ikd passes images of its own through the teacher",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_it_is_refused(
    overrides: list[str],
    said: str,
    teacher: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_refused(tmp_path, capsys, [teacher, *overrides], RecipeError.exit_code, said)


def test_a_check_counts_its_pass(
    teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(write_smoke(tmp_path)), teacher, PKD, TEACH, "--runs", str(tmp_path / "r")]
    assert main([*command, "--check", "--estimate"]) == 0
    said = capsys.readouterr().err
    assert "teacher backbone: strides [8, 16], channels [24, 48], provides features" in said
    assert "teach: outputs of the teacher on 16 views take" in said


@pytest.mark.slow
def test_the_cost_of_its_pass_counts_in_equal_time(teacher: str, tmp_path: Path) -> None:
    run = opened(tmp_path, teacher, PKD, "baseline.equal_time=true")
    training = StudentTraining(run, [], None, [live(run)])
    assert training.equal_time(most=2).ratio > 1


@pytest.mark.slow
def test_the_report_says_what_taught_and_has_no_row_of_it(teacher: str, tmp_path: Path) -> None:
    runs = tmp_path / "r"
    assert main([str(write_smoke(tmp_path)), teacher, PKD, "--runs", str(runs)]) == 0
    home = runs / "smoke"
    report: dict[str, Any] = json.loads((home / "report" / "report.json").read_text())
    (said,) = [note for note in report["notes"] if note.startswith("Teacher (backbone): ")]
    assert "mobilenet_v3_small with weights from w.safetensors: 240 tensors loaded" in said
    assert said.endswith("as it finds no objects. It has no row in the table.")
    assert report["gain"] is not None
    assert not list((home / "models").glob("teacher*"))
    record = read_record(home / "models" / "seed0-student")
    assert record.steps == 4
    assert {term.name for term in record.terms} == {"pkd/feature"}
