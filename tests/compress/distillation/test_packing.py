"""Convolutions with packed weights: equal to torch's own, and torch's own wherever they must be."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.distillation.folding import folded
from compress.distillation.packing import MOST_SHAPES, PackedConv, can_pack, is_packable
from compress.distillation.teacher import LiveTeacher
from tests.compress.detectors.small import SIZE, small_batch, small_detector

pytestmark = pytest.mark.skipif(not can_pack(), reason="no bf16 in oneDNN on this machine")
FORMS: dict[str, dict[str, Any]] = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "1x1 without bias": {"kernel_size": 1, "bias": False},
    "depthwise": {"kernel_size": 5, "padding": 2, "groups": 16},
    "groups": {"kernel_size": (3, 1), "padding": (1, 0), "groups": 4},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
}


def pair(**form: Any) -> tuple[nn.Conv2d, PackedConv]:
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 32, **form).requires_grad_(False)
    return plain, PackedConv(copy.deepcopy(plain))


def passed(layer: nn.Module, images: Tensor, half: torch.dtype | None = torch.bfloat16) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", half, enabled=half is not None):
        found: Tensor = layer(images)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("last", [True, False])
def test_the_result_is_that_of_the_layer(form: str, last: bool) -> None:
    plain, packed = pair(**FORMS[form])
    images = torch.randn(2, 16, 9, 12)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    found, expected = passed(packed, images), passed(plain, images)
    assert packed.packed, "the operators were not used"
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_the_order_of_inputs_changes_no_bit() -> None:
    inputs = [torch.randn(size, 16, side, side) for size, side in ((1, 4), (8, 16), (3, 7))]
    found = []
    for order in (inputs, inputs[::-1]):
        _, packed = pair(kernel_size=3, padding=1)
        results = {id(one): passed(packed, one) for one in order}
        found.append([results[id(one)] for one in inputs])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_inputs_of_many_shapes_keep_no_more_weights() -> None:
    plain, packed = pair(kernel_size=3)
    for side in range(4, 12):
        images = torch.randn(1, 16, side, side)
        torch.testing.assert_close(passed(packed, images), passed(plain, images))
    assert len(packed.packed) == MOST_SHAPES


def test_a_gradient_passes_as_through_the_layer() -> None:
    plain, packed = pair(kernel_size=3)
    gradients: list[Tensor] = []
    for layer in (plain, packed):
        torch.manual_seed(1)
        images = torch.randn(2, 16, 6, 6, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            layer(images).float().square().sum().backward()
        assert images.grad is not None
        gradients.append(images.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert not packed.packed


@pytest.mark.parametrize(
    ("dtype", "half"),
    [(torch.float32, None), (torch.float64, torch.bfloat16), (torch.bfloat16, None)],
)
def test_other_arithmetic_is_left_to_the_layer(
    dtype: torch.dtype, half: torch.dtype | None
) -> None:
    plain, packed = (layer.to(dtype) for layer in pair(kernel_size=3))
    images = torch.randn(1, 16, 5, 5, dtype=dtype)
    assert torch.equal(passed(packed, images, half), passed(plain, images, half))
    assert not packed.packed


def test_copies_and_stored_weights_have_nothing_packed() -> None:
    plain, packed = pair(kernel_size=3)
    images = torch.randn(1, 16, 5, 5)
    expected = passed(packed, images)
    other = copy.deepcopy(packed)
    assert packed.packed
    assert not other.packed
    assert torch.equal(passed(other, images), expected)
    assert packed.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("changes", [{"padding_mode": "reflect"}, {"padding": "same"}])
def test_what_the_operators_lack_is_not_packed(changes: dict[str, Any]) -> None:
    assert not is_packable(nn.Conv2d(4, 4, 3, **{"padding": 1, **changes}))
    assert not is_packable(nn.ConvTranspose2d(4, 4, 3))
    assert is_packable(nn.Conv2d(4, 4, 3))


def test_a_teacher_s_copy_passes_with_packed_weights() -> None:
    teacher, batch = small_detector("gfl").eval(), small_batch()
    live = LiveTeacher(teacher, teacher.spec, size=SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        live.outputs(batch, frozenset({"features"}))
    _, runs = live.frozen
    convs = [one for one in runs.modules() if isinstance(one, PackedConv)]
    assert any(one.packed for one in convs)
    assert not any(isinstance(one, PackedConv) for one in teacher.modules())
    assert folded(teacher, SIZE).state_dict().keys() == runs.state_dict().keys()
