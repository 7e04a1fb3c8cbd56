import pytest
import torch

from compress.losses.parts.levels import pair_levels, pair_strides, resize_like
from export.errors import RecipeError
from tests.compress.losses.scene import make_spec


def test_levels_meet_by_stride_and_not_by_place():
    student = make_spec(channels=(1, 2, 3), strides=(8, 16, 32))
    teacher = make_spec(channels=(4, 5, 6, 7), strides=(4, 8, 16, 64))
    pairs = pair_levels(student, teacher)
    assert pairs.strides == (8, 16)
    assert (pairs.student, pairs.teacher) == ((0, 1), (1, 2))
    assert pairs.channels(student.channels, teacher.channels) == [(1, 5), (2, 6)]


def test_what_has_no_partner_is_named():
    pairs = pair_strides((8, 16, 32), (4, 8, 16, 64))
    assert pairs.dropped == (
        "the student's maps of stride 32 have no partner",
        "the teacher's maps of stride 4, 64 have no partner",
    )
    assert pair_strides((8, 16), (8, 16)).dropped == ()


def test_no_shared_stride_is_refused_with_both_lists():
    student = make_spec(channels=(1, 1), strides=(4, 8), family="small")
    teacher = make_spec(channels=(1, 1), strides=(16, 32), family="large")
    with pytest.raises(
        RecipeError, match=r"small .* 4, 8, teacher large of 16, 32: none is shared"
    ):
        pair_levels(student, teacher)


def test_a_student_map_of_another_rounding_is_resized_to_the_teachers():
    # 2 -> 3 cells without aligned corners: centres at 1/6, 1/2, 5/6 of the row 0, 6, that is at
    # -1/6, 1/2 and 7/6 of a cell: the ends are clamped.
    resized = resize_like(torch.tensor([[[[0.0, 6.0]]]]), torch.zeros(1, 1, 1, 3))
    torch.testing.assert_close(resized, torch.tensor([[[[0.0, 3.0, 6.0]]]]))


def test_maps_of_equal_size_are_passed_on_untouched():
    own = torch.zeros(1, 1, 2, 2)
    assert resize_like(own, torch.zeros(1, 5, 2, 2)) is own


def test_sizes_that_no_rounding_explains_are_an_error():
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(4, 2\).* wrong stride"):
        resize_like(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 2))
