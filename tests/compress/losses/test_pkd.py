import math

import pytest
import torch

from compress.losses.pkd import PkdConfig, standardised_error
from tests.compress.losses.maps import cells, map_spec, one_map, total
from tests.compress.losses.scene import EVERYTHING

PLAIN = PkdConfig(type="pkd", loss_weight=1.0)


def test_the_opposite_map_costs_one_per_channel_in_the_unbiased_scale():
    # Two cells at 1 and -1 around their mean have the unbiased deviation sqrt(2): both maps are
    # 1 / sqrt(2) and -1 / sqrt(2), in opposite order. Squared differences 2 and 2; half their mean.
    assert one_map(PLAIN, cells(3, 5), cells(50, -50)) == pytest.approx(1.0, rel=1e-5)


def test_the_loss_does_not_depend_on_scale_and_offset_of_a_channel():
    teacher = torch.randn(2, 3, 4, 4)
    scale = torch.tensor([2.0, 0.5, 30.0])[:, None, None]
    assert one_map(PLAIN, teacher * scale + 7, teacher) == pytest.approx(0, abs=1e-8)


def test_the_statistics_are_those_of_the_whole_batch():
    # Each picture alone is constant, so only the batch has a deviation.
    student, teacher = (torch.tensor(v)[:, None, None, None] for v in ([0.0, 1.0], [1.0, 0.0]))
    assert one_map(PLAIN, student, teacher) == pytest.approx(1.0, rel=1e-5)


def test_the_weight_is_the_published_one_for_the_students_family():
    usual = PkdConfig(type="pkd")
    opposite = cells(0, 1), cells(1, 0)
    assert one_map(usual, *opposite) == pytest.approx(10, rel=1e-5)
    assert one_map(usual, *opposite, provides=EVERYTHING) == pytest.approx(6, rel=1e-5)


@pytest.mark.parametrize("turned", [False, True], ids=["widths differ", "heights differ"])
def test_either_side_can_take_the_others_size_along_either_axis(turned):
    # The student's 0, 6 becomes 0, 3, 6, that is -1, 0, 1; the teacher's 0, 0, 6 is -1, -1, 2 over
    # sqrt(3). Both have the squared length 2 and their product is sqrt(3): 4 - 2 sqrt(3) apart.
    # The other way round two cells are left, in the same order on both sides.
    student, teacher = cells(0, 6), cells(0, 0, 6)
    if turned:
        student, teacher = student.mT, teacher.mT
    half_mean = (4 - 2 * math.sqrt(3)) / 3 / 2
    assert one_map(PLAIN, student, teacher) == pytest.approx(half_mean, rel=1e-5)
    other = PkdConfig(type="pkd", loss_weight=1.0, resize="teacher")
    assert one_map(other, student, teacher) == pytest.approx(0, abs=1e-6)


def test_the_fifth_level_is_left_out_by_default():
    same = [torch.arange(4.0).reshape(1, 1, 2, 2)] * 5
    changed = [*same[:4], -same[4]]
    spec = map_spec(same)
    assert float(total(PLAIN.build(spec, spec), same, changed)) == 0
    five = PkdConfig(type="pkd", loss_weight=1.0, levels=5)
    assert float(total(five.build(spec, spec), same, changed)) > 0.5


def test_a_dead_channel_is_counted_and_not_taught():
    student = torch.tensor([[[[0.0, 1.0]], [[5.0, 5.0]]]], requires_grad=True)
    teacher = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    # The first channel's squared differences are 2 and 2; the second's are not added: 4 / 4.
    error = standardised_error(student, teacher, epsilon=1e-6, dead_below=1e-4)
    error.backward()
    assert float(error.detach()) == pytest.approx(1.0, rel=1e-5)
    assert student.grad is not None
    assert student.grad[0, 1].tolist() == [[0.0, 0.0]]


def test_a_dead_channel_that_is_taught_keeps_a_finite_gradient():
    student = torch.full((1, 1, 2, 2), 5.0, requires_grad=True)
    teacher = torch.arange(4.0).reshape(1, 1, 2, 2)
    error = standardised_error(student, teacher, epsilon=1e-6, dead_below=0.0)
    error.backward()
    # Standardised, the student is 0 and the teacher has the sum of squares n - 1 = 3, over n = 4.
    assert float(error.detach()) == pytest.approx(0.75, rel=1e-5)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_epsilon_stands_beside_the_deviation():
    # Deviations sqrt(2) / 2 with epsilon sqrt(2) / 2 halve both maps, so their error is a quarter.
    wide = PkdConfig(type="pkd", loss_weight=1.0, epsilon=math.sqrt(0.5))
    assert one_map(wide, cells(0, 1), cells(1, 0)) == pytest.approx(0.25, rel=1e-5)


def test_a_level_with_one_value_per_channel_adds_zero_attached_to_the_graph():
    student = torch.ones(1, 2, 1, 1, requires_grad=True)
    error = standardised_error(student, torch.zeros(1, 2, 1, 1), epsilon=1e-6, dead_below=1e-4)
    error.backward()
    assert float(error.detach()) == 0
    assert student.grad is not None
