import pytest
import torch
from torch import nn

from compress.losses.mse import MseConfig
from compress.losses.parts.alignment import (
    AlignedLevels,
    align_channels,
    finest_pairs,
    is_two_stage,
)
from tests.compress.losses.maps import map_spec
from tests.compress.losses.scene import make_spec


def test_the_finest_of_the_shared_levels_are_kept():
    student = make_spec(channels=(1, 2, 3), strides=(8, 16, 32))
    teacher = make_spec(channels=(4, 5, 6, 7), strides=(4, 8, 16, 32))
    pairs = finest_pairs(student, teacher, 2)
    assert (pairs.strides, pairs.student, pairs.teacher) == ((8, 16), (0, 1), (1, 2))
    assert finest_pairs(student, teacher, 9).strides == (8, 16, 32)
    assert finest_pairs(student, teacher, None).strides == (8, 16, 32)


def test_only_a_detector_with_proposals_has_two_stages():
    assert is_two_stage(make_spec())
    assert not is_two_stage(make_spec(provides=frozenset({"features", "dense"})))


def test_a_convolution_is_used_only_where_channels_differ():
    equal, unequal = align_channels([(3, 3), (3, 5)])
    assert not list(equal.parameters())
    assert isinstance(unequal, nn.Conv2d)
    assert unequal.weight.shape == (5, 3, 1, 1)
    assert unequal.bias is not None
    assert align_channels([(3, 5)], bias=False)[0].bias is None


def test_maps_come_with_the_teachers_channels_and_size():
    student, teacher = [torch.zeros(2, 3, 4, 5)], [torch.zeros(2, 6, 5, 5)]
    levels = AlignedLevels(map_spec(student), map_spec(teacher))
    [(own, other)] = levels(student, teacher)
    assert own.shape == other.shape == (2, 6, 5, 5)


def test_pyramids_without_a_common_stride_are_refused_with_both_lists():
    student = make_spec(channels=(1, 1), strides=(4, 8))
    teacher = make_spec(channels=(1, 1), strides=(16, 32))
    [problem] = MseConfig(type="mse").check(student, teacher)
    assert "4, 8" in problem
    assert "16, 32" in problem
    with pytest.raises(Exception, match="none is shared"):
        MseConfig(type="mse").build(student, teacher)
