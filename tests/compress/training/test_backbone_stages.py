"""Stages of a backbone: which there are, what freezing them leaves as it was, and their rates."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.batch import Batch
from compress.checks import check_models
from compress.detector import Detector
from compress.detectors.small_pairs import small_pair
from compress.detectors.ultralytics_parts.installed import is_installed
from compress.distillation.distiller import Distiller
from compress.parts.backbones import SlimResNetConfig, build_backbone
from compress.parts.weights import weights_hash
from compress.training.backbone_stages import hold, stages_of
from compress.training.job import Batches, Trained
from compress.training.optim import TrainConfig, build_optimizer
from export.errors import RecipeError
from tests.compress.detectors.small import small_batch, small_detector
from tests.compress.smoke import opened_smoke
from tests.compress.training.test_loop import fit, same
from tests.contracts.together import LOSS

STEADY: dict[str, Any] = {
    "steps": 3,
    "optimizer": "sgd",
    "lr": 0.02,
    "schedule": "constant",
    "warmup": 0,
    "clip": None,
    "evaluations": 1,
}
HELD: dict[str, Any] = {"freeze_at": 2, "norm_eval": True, "layer_decay": 0.5, "backbone_lr": 0.1}


def batches(first: int, count: int) -> Iterator[Batch]:
    return (small_batch((2, 1 + step)) for step in range(first, first + count))


def trained(
    folder: Path, objective: Distiller, source: Batches = batches, **settings: Any
) -> Trained:
    given = {**STEADY, "channels_last": False, **settings}
    return fit(folder, source, objective=objective, **given)


@pytest.mark.parametrize(
    ("name", "strides", "first"),
    [
        (SlimResNetConfig(), (2, 4, 8, 16, 32), ("body.conv1", "body.bn1")),
        ("resnet50", (2, 4, 8, 16, 32), ("body.conv1", "body.bn1")),
        ("mobilenet_v3_small", (2, 4, 8, 16, 32), ("body.0.0", "body.0.1")),
    ],
)
def test_a_stage_is_a_run_of_layers_of_one_stride(
    name: str | SlimResNetConfig, strides: tuple[int, ...], first: tuple[str, ...]
) -> None:
    with torch.device("meta"):
        stages = stages_of(build_backbone(name, (8, 16, 32), "batch"))
    assert stages.strides == strides
    assert stages.modules[0] == first


def test_a_convolution_before_the_stride_belongs_to_the_stage_of_its_block() -> None:
    with torch.device("meta"):
        stages = stages_of(build_backbone("resnet50", (8, 16, 32), "batch"))
    assert stages.number_of("body.layer1.2.conv3.weight") == 2
    assert stages.number_of("body.layer2.0.conv1.weight") == 3  # 1x1, on maps of stride 4
    assert stages.number_of("body.layer2.0.downsample.0.weight") == 3


def test_stages_are_found_where_channels_come_last() -> None:
    class Last(nn.Module):
        def __init__(self, before: int, channels: int, stride: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(before, channels, stride, stride=stride)

        def forward(self, maps: Tensor) -> Tensor:
            if maps.shape[1] != self.conv.in_channels:
                maps = maps.permute(0, 3, 1, 2)
            found: Tensor = self.conv(maps)
            return found.permute(0, 2, 3, 1)

    backbone = nn.Sequential(Last(3, 6, 4), Last(6, 12, 2))
    assert stages_of(backbone).strides == (4, 8)


def test_a_backbone_whose_layers_go_back_to_finer_maps_has_no_stages() -> None:
    down, up = nn.Conv2d(3, 4, 4, stride=4), nn.ConvTranspose2d(4, 4, 2, stride=2)
    with pytest.raises(RecipeError, match="do not come in stages of one stride each"):
        stages_of(nn.Sequential(down, up))


def test_frozen_stages_keep_weights_and_statistics_while_the_rest_trains(tmp_path: Path) -> None:
    student = small_detector("fcos", norm="batch")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    after = trained(tmp_path, Distiller(student), freeze_at=2).state
    kept = {name for name, value in before.items() if torch.equal(value, after[name])}
    of_backbone = {name for name in before if name.startswith("backbone.")}
    frozen = ("backbone.body.conv1.", "backbone.body.bn1.", "backbone.body.layer1.")
    assert kept & of_backbone == {name for name in before if name.startswith(frozen)}


def test_norm_eval_keeps_the_statistics_of_the_backbone_alone(tmp_path: Path) -> None:
    student = small_detector("fcos", norm="batch")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    after = trained(tmp_path, Distiller(student), norm_eval=True).state
    kept = {name for name, value in before.items() if torch.equal(value, after[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    of_backbone = {name for name in before if name.startswith("backbone.")}
    assert kept & of_backbone == {name for name in of_backbone if name.endswith(statistics)}
    assert any(name.endswith(statistics) for name in before.keys() - kept)  # those of the neck


def test_training_equals_a_loop_of_torch_with_parameter_groups_by_hand(tmp_path: Path) -> None:
    ours = trained(tmp_path, Distiller(small_detector("fcos", norm="batch")), **HELD).state

    student = small_detector("fcos", norm="batch")
    body: Any = student.backbone.body
    for part in (body.conv1, body.bn1, body.layer1):
        part.requires_grad_(False)
    groups = []
    rates = {body.layer2: 0.5**3, body.layer3: 0.5**2, body.layer4: 0.5}
    for part, rate in [(body, 0.0), *rates.items(), (student.neck, 0.0), (student.head, 0.0)]:
        scale = 0.1 * rate if rate else 1.0
        own = [] if part is body else [p for p in part.parameters() if p.requires_grad]
        groups += [
            {"params": [p for p in own if p.ndim > 1], "lr": 0.02 * scale, "weight_decay": 0.05},
            {"params": [p for p in own if p.ndim == 1], "lr": 0.02 * scale, "weight_decay": 0.0},
        ]
    optimizer = torch.optim.SGD([group for group in groups if group["params"]], momentum=0.9)
    student.train()
    for module in student.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for batch in batches(0, 3):
        terms = student(batch).task_losses
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    expected = student.state_dict()
    assert ours.keys() == expected.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-7, msg=name)


def test_a_held_training_that_is_cut_ends_as_one_that_was_not(tmp_path: Path) -> None:
    def cut(first: int, count: int) -> Iterator[Batch]:
        yield from batches(first, count - 1)
        raise KeyboardInterrupt

    settings: dict[str, Any] = {**STEADY, **HELD, "ema": 0.9, "checkpoint_every_s": 1e-9}
    student = small_detector("fcos")

    def again() -> Distiller:
        return Distiller(copy.deepcopy(student))

    whole = trained(tmp_path / "whole", again(), **settings)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", again(), cut, **settings)
    resumed = trained(tmp_path / "cut", again(), **settings)
    assert same(whole.state, resumed.state)


def test_a_student_of_a_frozen_backbone_is_distilled_into_its_other_layers(tmp_path: Path) -> None:
    student, teacher = small_pair("gfl")
    teacher.eval().requires_grad_(False)
    before = weights_hash(student.backbone)
    neck = weights_hash(student.neck)
    losses = [LOSS.validate_python({"type": "pkd", "weight": "auto", "ratio": 1})]
    objective = Distiller(student, teacher, losses)
    rows = trained(tmp_path, objective, freeze_at=5).rows
    assert weights_hash(student.backbone) == before
    assert weights_hash(student.neck) != neck
    assert any(name.startswith("loss/pkd/") for name in rows[-1])


def test_frozen_weights_are_not_in_the_optimiser() -> None:
    student = small_detector("fcos", norm="batch")
    said = hold(student, 5, norm_eval=False)
    groups = build_optimizer(Distiller(student), TrainConfig(steps=1)).param_groups
    held = {id(p) for group in groups for p in group["params"]}
    assert not held & {id(p) for p in student.backbone.parameters()}
    assert said.startswith("5 of 5 stages of the backbone (strides 2, 4, 8, 16, 32) frozen, 0.0")


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="ultralytics is not installed")
def test_stages_of_a_yolo_are_frozen_and_the_rest_trains(tmp_path: Path) -> None:
    student = small_detector("yolo")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    settings: dict[str, Any] = {
        "steps": 1,
        "freeze_at": 3,
        "norm_eval": True,
        "layer_decay": 0.5,
        "lr": 1e-3,
    }
    after = trained(tmp_path, Distiller(student), **settings).state
    kept = {name for name, value in before.items() if torch.equal(value, after[name])}
    first = tuple(f"backbone.layers.{number}." for number in range(5))
    frozen = {name for name in before if name.startswith(first)}
    assert frozen <= kept
    assert stages_of(student.backbone).strides == (2, 4, 8, 16, 32)
    weights = {name for name in before if name.endswith("conv.weight")} - frozen
    assert not weights & kept - {name for name in weights if "one2one" in name}


def refusal(folder: Path, *overrides: str) -> str:
    try:
        check_models(opened_smoke(folder, "distill=[]", *overrides))
    except RecipeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["train.freeze_at=6"],
            "train.freeze_at: 6, and the backbone has 4 stages (strides 2, 4, 8, 16); set 0 to 4",
        ),
        (["teacher.train.freeze_at=9"], "teacher.train.freeze_at: 9, and the backbone has 4"),
        (["train.norm_eval=true"], "train.norm_eval: true, and the backbone has no BatchNorm"),
    ],
)
def test_what_the_backbone_does_not_have_is_refused_by_the_check(
    tmp_path: Path, overrides: list[str], said: str
) -> None:
    assert said in refusal(tmp_path, *overrides)


def test_freezing_random_weights_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_models(opened_smoke(tmp_path, "train.freeze_at=2", quiet=False))
    said = capsys.readouterr().err
    assert "train.freeze_at: keeps random weights as they are; give student the weights" in said


def test_a_detector_that_holds_nothing_trains_as_before() -> None:
    student: Detector = small_detector("gfl")
    student.train()
    assert all(module.training for module in student.modules())
