import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file

from compress.batch import Batch, Targets, full_size
from compress.detector import Detector
from compress.detectors.gfl import GflConfig
from compress.distillation.distiller import Distiller
from compress.distillation.pairing import check_pair
from compress.losses import LossConfig
from compress.parts.pretrained import check_starting_weights, load_backbone_weights
from compress.teaching.backbone import BackboneSource, build_backbone_teacher, resampled
from compress.teaching.config import BackboneTeacher
from export.errors import RecipeError

pytestmark = pytest.mark.slow  # importing timm takes seconds

SIDE = 64
SLIM = {"type": "slim_resnet", "widths": (16, 16, 16, 16)}
LOSS: TypeAdapter[LossConfig] = TypeAdapter(LossConfig)


@pytest.fixture(autouse=True)
def _timm() -> None:
    pytest.importorskip("timm")


def student() -> Detector:
    settings = {"type": "gfl", "backbone": SLIM, "width": 16, "head_depth": 1, "reg_max": 4}
    return GflConfig.model_validate({**settings, "strides": (8, 16, 32)}).build(2, (SIDE, SIDE))


def settings(backbone: str = "timm/test_vit", weights: str = "w.safetensors") -> BackboneTeacher:
    given = {"type": "backbone", "backbone": backbone, "backbone_weights": weights}
    return BackboneTeacher.model_validate_json(json.dumps(given))


def source(backbone: str, size: tuple[int, int] = (SIDE, SIDE)) -> BackboneSource:
    torch.manual_seed(0)
    teacher = build_backbone_teacher(settings(backbone), student().spec, size)
    teacher.eval()
    return teacher


def batch() -> Batch:
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    target = Targets(torch.tensor([[8.0, 8.0, 40.0, 44.0]]), torch.tensor([1]))
    return Batch(images, (target, target), full_size(images), (7, 8), 2)


def test_a_vit_gives_its_normed_patch_tokens_on_every_level() -> None:
    teacher, images = source("timm/test_vit", (160, 96)), torch.rand(1, 3, 160, 96)
    assert teacher.spec.strides == (8, 16, 32)
    assert teacher.spec.channels == (64, 64, 64)
    with torch.no_grad():
        maps = teacher.maps(images)
        model = teacher.backbone.body.model
        mean, std = teacher.backbone.mean, teacher.backbone.std
        tokens = model.forward_features((images - mean) / std)[:, model.num_prefix_tokens :]
    assert [tuple(one.shape[-2:]) for one in maps] == [(20, 12), (10, 6), (5, 3)]
    torch.testing.assert_close(maps[1].flatten(2).transpose(1, 2), tokens)
    coarse = tokens.transpose(1, 2).reshape(1, 64, 10, 6)
    torch.testing.assert_close(maps[2].mean(), coarse.mean(), atol=0.02, rtol=0)


def test_stages_of_a_convolutional_model_go_to_the_level_of_their_stride() -> None:
    teacher = source("timm/test_convnext")
    with torch.no_grad():
        stages, maps = teacher.backbone(batch().images), teacher.maps(batch().images)
    assert teacher.backbone.strides == (4, 8, 16, 32)
    for own, of_level in zip(stages[1:], maps, strict=True):
        assert torch.equal(own, of_level)


def test_levels_beyond_the_coarsest_stage_average_it() -> None:
    whole = torch.arange(16.0).reshape(1, 1, 4, 4)
    halved = resampled(whole, (2, 2))
    assert halved.mean() == pytest.approx(7.5)
    assert halved.flatten().tolist() == sorted(halved.flatten().tolist())
    assert resampled(whole, (4, 4)) is whole


def test_a_patch_that_does_not_divide_the_picture_sees_it_resized() -> None:
    teacher = source("timm/test_vit", (100, 70))
    seen: list[tuple[int, ...]] = []
    teacher.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    with torch.no_grad():
        maps = teacher.maps(torch.rand(1, 3, 100, 70))
    assert seen == [(1, 3, 96, 64)]
    assert [tuple(one.shape[-2:]) for one in maps] == [(13, 9), (7, 5), (4, 3)]


@pytest.mark.parametrize(
    ("name", "mean"),
    [("timm/tf_efficientnet_lite0", 0.5), ("resnet18", 0.485)],
)
def test_pictures_are_normalised_as_the_model_was_trained(name: str, mean: float) -> None:
    teacher = source(name)
    assert teacher.backbone.mean.flatten()[0].item() == pytest.approx(mean)


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_convnext"])
def test_weights_of_the_whole_model_fill_it(name: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    whole = pytest.importorskip("timm").create_model(name.removeprefix("timm/"))
    file = tmp_path / "w.safetensors"
    save_file(whole.state_dict(), file)
    teacher = source(name)
    config = settings(name, str(file))
    assert list(check_starting_weights(config, teacher)) == []
    report = load_backbone_weights(teacher, *config.backbone_source())
    assert report.complete or all("head" in one or "norm" in one for one in report.unexpected)
    assert len(report.loaded) > 20
    name_here, value = next(
        (n, v) for n, v in teacher.backbone.body.state_dict().items() if n.endswith("weight")
    )
    stored = {tuple(v.shape): v for v in whole.state_dict().values() if torch.equal(v, value)}
    assert tuple(value.shape) in stored, name_here


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(pytest.importorskip("timm").create_model("test_vit").state_dict(), file)
    config = settings("timm/test_convnext", str(file))
    ((key, error),) = check_starting_weights(config, source("timm/test_convnext"))
    assert key == "backbone_weights"
    assert "not the weights of this backbone" in str(error)


def test_only_losses_on_features_are_accepted() -> None:
    own, teacher = student(), source("timm/test_vit")
    losses = [LOSS.validate_python({"type": name}) for name in ("pkd", "bckd")]
    ((index, problem),) = check_pair(own.spec, teacher.spec, losses)
    assert index == 1
    assert problem.startswith("bckd needs dense; teacher 'backbone' provides features")


@pytest.mark.parametrize("loss", ["pkd", "cwd", "defeat"])
def test_a_student_learns_from_the_maps_of_a_backbone(loss: str) -> None:
    own, teacher = student(), source("timm/test_vit")
    config: Any = LOSS.validate_python({"type": loss})
    assert check_pair(own.spec, teacher.spec, [config]) == []
    terms = Distiller(own, teacher, [config]).train()(batch())
    taught = [value for name, value in terms.items() if name.startswith(f"{loss}/")]
    torch.stack(taught).sum().backward()
    gradients = [one.grad for one in own.backbone.parameters() if one.grad is not None]
    assert all(bool(one.isfinite().all()) for one in gradients)
    assert any(bool(one.abs().sum() > 0) for one in gradients)
    assert all(one.grad is None for one in teacher.parameters())


def test_a_backbone_finds_no_objects() -> None:
    teacher = source("timm/test_vit")
    with pytest.raises(ValueError, match="has no head"):
        teacher.candidates(batch().images)
    with pytest.raises(ValueError, match="gives features alone"):
        teacher(batch(), frozenset({"dense"}))


def test_unknown_and_unnamed_backbones_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"timm has no model 'test_vti'; did you mean timm/test_"):
        source("timm/test_vti")
    given = {"type": "backbone", "backbone": SLIM, "backbone_weights": "x.safetensors"}
    with pytest.raises(ValidationError, match="name of a model that has pre-trained weights"):
        BackboneTeacher.model_validate_json(json.dumps(given))
