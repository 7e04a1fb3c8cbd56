"""The faster copy of a teacher: equal outputs, and only pairs that are certain are folded."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from compress.batch import Batch
from compress.detector import FEATURES, Candidates, Detector, DetectorSpec, Outputs, Rois, Wanted
from compress.distillation.folding import folded
from compress.parts.weights import weights_hash
from tests.compress.detectors.small import (
    EACH_FAMILY,
    SIZE,
    small_batch,
    small_detector,
    spread,
)

pytestmark = pytest.mark.usefixtures("small_rtdetr")
NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


def norms(module: nn.Module) -> int:
    return sum(type(one) in NORMS for one in module.modules())


def tensors(value: Any) -> Iterator[Tensor]:
    """All floating-point tensors in outputs."""
    if isinstance(value, Tensor):
        yield from [value] if value.is_floating_point() else []
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))
    elif isinstance(value, dict | tuple | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from tensors(one)


def small_teacher(family: str, **changes: Any) -> Detector:
    return spread(small_detector(family, **changes)).eval()


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_all_outputs_are_equal_but_for_rounding(family: str) -> None:
    # its one-to-many branch teaches and is not exported
    changes = {"model": "yolo26n"} if family == "yolo" else {}
    teacher, batch = small_teacher(family, **changes), small_batch()
    most = 1e-4
    if "rois" not in teacher.spec.provides:  # a two-stage head pools in float32
        # rounding grows in a network with random weights
        teacher, batch = teacher.double(), batch._replace(images=batch.images.double())
        most = 1e-6
    before = weights_hash(teacher)
    fast = folded(teacher, SIZE)
    # towers that levels share have a norm for each level
    shared = 6 if "towers" in teacher.spec.provides and family != "yolo" else 0
    assert norms(fast) == shared < norms(teacher)
    outputs = []
    for one in (teacher, fast):
        torch.manual_seed(0)  # a two-stage head draws its sample
        outputs.append([*tensors(one(batch, one.spec.provides - {"task"}))])
    for own, expected in zip(*outputs, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(own, expected, rtol=0, atol=most * scale)
    assert weights_hash(teacher) == before
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_frozen_statistics_are_folded() -> None:
    teacher = small_teacher("faster_rcnn", norm="frozen")
    assert norms(teacher) > 0
    assert norms(folded(teacher, SIZE)) == 0


class Tiny(Detector):
    """Two convolutions and two norms, wired by the test."""

    def __init__(self, wiring: "Wiring") -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.first, self.second = (nn.BatchNorm2d(3) for _ in range(2))
        for norm in (self.first, self.second):
            norm.running_mean, norm.running_var = torch.rand(3), torch.rand(3) + 0.5
        self.spec = DetectorSpec(
            family="tiny",
            num_classes=1,
            channels=(3,),
            strides=(1,),
            backbone_channels=(3,),
            backbone_strides=(1,),
            provides=FEATURES,
        )
        self.wiring = wiring

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.wiring(self, images),)

    def forward(self, batch: Batch, wanted: Wanted = FEATURES, rois: Rois | None = None) -> Outputs:
        del wanted, rois
        return Outputs(self.maps(batch.images))

    def candidates(self, images: Tensor) -> Candidates:
        found = self.maps(images)[0]
        return Candidates(found, found, found)


Wiring = Callable[[Tiny, Tensor], Tensor]
CASES: dict[str, tuple[Wiring, set[str]]] = {
    "in a row": (lambda net, x: net.second(net.two(net.first(net.one(x)))), set()),
    "called twice": (lambda net, x: net.first(net.one(net.first(net.one(x)))), {"second"}),
    "a result used beside": (lambda net, x: net.first(y := net.one(x)) + y, {"first", "second"}),
    "changed in place": (lambda net, x: net.first(net.one(x).add_(1)), {"first", "second"}),
    "a result in a list": (
        lambda net, x: torch.cat([net.first(y := net.one(x)), y[:, :1]], dim=1),
        {"first", "second"},
    ),
    "two norms of one result": (
        lambda net, x: net.first(y := net.one(x)) + net.second(y),
        {"first", "second"},
    ),
    "two norms in turns": (
        lambda net, x: net.second(net.one(net.first(net.one(x)))),
        {"first", "second"},
    ),
    "one norm of two": (
        lambda net, x: net.first(net.one(x)) + net.first(net.two(x)),
        {"first", "second"},
    ),
    "also without a norm": (lambda net, x: net.first(net.one(net.one(x))), {"first", "second"}),
    "a norm before": (lambda net, x: net.one(net.first(x)), {"first", "second"}),
    "also of the picture": (
        lambda net, x: net.first(x) + net.first(net.one(x)),
        {"first", "second"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_only_certain_pairs_are_folded(case: str) -> None:
    wiring, left = CASES[case]
    torch.manual_seed(0)
    net = Tiny(wiring).eval()
    fast = folded(net, (4, 6))
    kept = {name for name, one in fast.named_children() if type(one) is nn.BatchNorm2d}
    assert kept == left
    images = torch.rand(2, 3, 4, 6)
    torch.testing.assert_close(fast.maps(images), net.maps(images), rtol=1e-4, atol=1e-5)
