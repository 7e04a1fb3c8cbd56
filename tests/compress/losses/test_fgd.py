"""FGD by hand: masks of known cells, attentions of constants, an untrained context block."""

import math
import re

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from compress.detector import Outputs
from compress.losses import LossConfig
from compress.losses.fgd import FgdConfig, FgdLevel, GlobalContext, attention, scale_masks
from tests.compress.losses.scene import make_batch, make_outputs, make_spec

WHOLE = torch.tensor([[32, 32]])  # four cells of 8 pixels


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def weights(foreground):
    """The drawn cells of one picture with the number of cells of the box that marks them."""
    return {
        (int(row), int(column)): round(1 / float(foreground[row, column]))
        for row, column in foreground.nonzero()
    }


def block(top, bottom, left, right):
    return {(row, column) for row in range(top, bottom + 1) for column in range(left, right + 1)}


@pytest.mark.parametrize(
    ("box", "expected", "area"),
    [
        ([8, 8, 16, 16], block(1, 2, 1, 2), 4),  # one cell, and the one after it
        ([9, 9, 15, 15], block(1, 2, 1, 2), 4),  # strictly inside a cell: two per axis
        ([9, 9, 17, 15], block(1, 2, 1, 3), 6),
        ([25, 25, 31, 31], block(3, 3, 3, 3), 4),  # 3..4, of which the map has 3; area before
        ([0, 16, 32, 24], block(2, 3, 0, 3), 10),  # columns 0..4
        ([-12, 0, 4, 8], block(0, 1, 0, 1), 8),  # columns -2..1
        ([40, 0, 48, 8], set(), 0),  # outside
    ],
)
def test_a_box_is_drawn_with_an_inclusive_end_and_its_inverse_area(box, expected, area):
    foreground, _ = scale_masks([boxes(box)], WHOLE, (4, 4))
    assert weights(foreground[0]) == dict.fromkeys(expected, area)


def test_the_smaller_of_two_boxes_stands_where_they_overlap():
    foreground, _ = scale_masks([boxes([0, 0, 16, 16], [8, 8, 16, 16])], WHOLE, (4, 4))
    small = block(1, 2, 1, 2)  # area 4; the other has rows and columns 0..2, area 9
    assert weights(foreground[0]) == dict.fromkeys(block(0, 2, 0, 2), 9) | dict.fromkeys(small, 4)


def test_boxes_are_scaled_by_the_stated_size_of_each_picture():
    sizes = torch.tensor([[32, 32], [64, 128]])
    foreground, _ = scale_masks([boxes([8, 8, 16, 16]), boxes([32, 32, 64, 48])], sizes, (4, 4))
    assert set(weights(foreground[1])) == block(2, 3, 1, 2)
    assert set(weights(foreground[0])) == block(1, 2, 1, 2)


def test_cells_without_a_box_share_one():
    _, background = scale_masks([boxes([8, 8, 16, 16]), boxes()], WHOLE.expand(2, 2), (4, 4))
    torch.testing.assert_close(background[0, 0], torch.full((4,), 1 / 12))
    assert not background[0, 1:3, 1:3].any()
    torch.testing.assert_close(background[1], torch.full((4, 4), 1 / 16))


def test_a_box_over_the_whole_map_leaves_no_background():
    foreground, background = scale_masks([boxes([0, 0, 32, 32])], WHOLE, (4, 4))
    assert weights(foreground[0]) == dict.fromkeys(block(0, 3, 0, 3), 25)
    assert not background.any()


def test_attention_is_a_softmax_of_mean_sizes_around_one():
    # One picture of 2 channels x 2 cells. Means over channels: 2 and 0, over cells: 1 and 1.
    maps = torch.tensor([[[[-2.0, 0.0]], [[2.0, 0.0]]]])
    cells, channels = attention(maps, temperature=0.5)
    share = math.exp(4) / (math.exp(4) + 1)  # 2 / 0.5
    torch.testing.assert_close(cells, torch.tensor([[[2 * share, 2 * (1 - share)]]]))
    torch.testing.assert_close(channels, torch.ones(1, 2))


def level_terms(student, teacher, foreground, background, temperature=0.5):
    level = FgdLevel(student.shape[1], teacher.shape[1], temperature, relates=True)
    return {
        name: float(total.detach()) / len(student)
        for name, total in level(student, teacher, foreground, background)._asdict().items()
    }


def test_the_teachers_attention_weighs_the_error_and_pictures_are_averaged():
    # Temperature 0.5; the teacher's cells have mean sizes 1 and 0, its channels 0.5 and 0.5, so
    # a_t = 2 e^2 / (e^2 + 1) in the first cell and b_t = 1. The student is 0: the error is 1 per
    # channel in the first cell and 0 in the second. Both pictures are alike but for their masks.
    teacher = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]]).repeat(2, 1, 1, 1)
    foreground = torch.tensor([[[0.25, 0.0]], [[0.0, 0.0]]])
    background = torch.tensor([[[0.0, 1.0]], [[0.5, 0.5]]])
    found = level_terms(torch.zeros(2, 2, 1, 2), teacher, foreground, background)
    share = math.exp(2) / (math.exp(2) + 1)
    assert found["foreground"] == pytest.approx(0.25 * 2 * share * 2 / 2)
    assert found["background"] == pytest.approx(0.5 * 2 * share * 2 / 2)
    # a_s = 1, 1; |a_s - a_t| = 2 (2 share - 1) per picture; channels agree
    assert found["attention"] == pytest.approx(2 * (2 * share - 1))
    # untrained blocks add nothing: the squared error itself, 2 per picture
    assert found["relation"] == pytest.approx(2.0)


def test_the_context_is_a_weighted_mean_of_cells_through_a_bottleneck():
    context = GlobalContext(4)
    with torch.no_grad():
        context.mask.weight.copy_(torch.tensor([1.0, 0, 0, 0]).view(1, 4, 1, 1))
        first, norm, _, last = context.transform
        first.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]]).view(2, 4, 1, 1))
        first.bias.zero_()
        norm.weight.fill_(3.0)
        last.weight.fill_(1.0)
        last.bias.copy_(torch.arange(4.0))
    maps = torch.zeros(1, 4, 1, 2)
    maps[0, 0, 0, 1] = math.log(3.0)  # shares 1/4 and 3/4
    maps[0, 1, 0, 0] = 1.0
    # The context is (3/4 log 3, 1/4, 0, 0); LayerNorm makes its first two (1, -1) up to its
    # epsilon, times 3 and through the ReLU (3, 0); the last layer adds them up for each channel.
    expected = torch.tensor([[3.0, 4.0, 5.0, 6.0]])
    torch.testing.assert_close(context(maps), expected, rtol=1e-3, atol=0)


def test_an_untrained_context_adds_nothing_and_learns():
    torch.manual_seed(0)
    context = GlobalContext(4)
    added = context(torch.randn(2, 4, 3, 3))
    assert not added.any()
    added.sum().backward()
    assert context.transform[3].weight.grad.any()


def test_every_box_is_drawn_on_every_level_and_levels_are_summed():
    spec = make_spec(channels=(2, 2), strides=(8, 16))
    loss = FgdConfig(type="fgd", alpha=1, beta=0, gamma=0, lam=0).build(spec, spec)
    ones, zeros = (
        Outputs(tuple(torch.full((1, 2, side, side), value) for side in (4, 2)))
        for value in (1.0, 0.0)
    )
    (term,) = loss(zeros, ones, make_batch([[[0, 0, 16, 16]]], size_px=32)).values()
    # Attention of a constant is 1 and the error 2 per cell. Stride 8: cells 0..2, 9 / 9; stride
    # 16: cells 0..1, 4 / 4.
    assert float(term) == pytest.approx(2 + 2)


def test_boxes_are_scaled_by_the_padded_input():
    spec = make_spec(channels=(2,), strides=(8,))
    loss = FgdConfig(type="fgd", alpha=0, beta=1, gamma=0, lam=0).build(spec, spec)
    batch = make_batch([[[0, 0, 16, 16]]], size_px=32)
    batch = batch._replace(sizes=torch.tensor([[20, 16]]))  # what the picture fills of it
    student = torch.zeros(1, 2, 4, 4)
    student[..., 3, 3] = 1.0
    (term,) = loss(Outputs((student,)), Outputs((torch.zeros(1, 2, 4, 4),)), batch).values()
    assert float(term) == pytest.approx(2 / 7)  # 16 - 9 cells of background


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("faster_rcnn", (5e-5, 2.5e-5, 5e-5, 5e-7, 0.5)),
        ("retinanet", (1e-3, 5e-4, 5e-4, 5e-6, 0.5)),
        ("gfl", (1e-3, 5e-4, 5e-4, 5e-6, 0.5)),
        ("fcos", (1.6e-3, 8e-4, 8e-4, 8e-6, 0.8)),
        ("made_up", (1e-3, 5e-4, 5e-4, 5e-6, 0.5)),
    ],
)
def test_what_is_not_said_follows_the_students_family(family, expected):
    student = make_spec(family=family)
    assert FgdConfig(type="fgd").weights(student) == expected
    assert FgdConfig(type="fgd", beta=0, temperature=2).weights(student) == (
        expected[0],
        0,
        *expected[2:4],
        2,
    )


@pytest.mark.parametrize(
    ("family", "levels", "expected"),
    [
        ("faster_rcnn", None, (4, 8, 16, 32)),
        ("retinanet", None, (4, 8, 16, 32, 64)),
        ("faster_rcnn", 5, (4, 8, 16, 32, 64)),
        ("retinanet", 2, (4, 8)),
    ],
)
def test_a_two_stage_student_learns_on_its_four_finest_levels(family, levels, expected):
    student = make_spec(channels=(4,) * 5, strides=(4, 8, 16, 32, 64), family=family)
    config = FgdConfig(type="fgd", levels=levels)
    assert config.check(student, student) == []
    assert config.pairs(student, student).strides == expected
    assert len(config.build(student, student).levels) == len(expected)


def test_a_term_of_weight_zero_is_left_out_with_its_parameters():
    spec = make_spec()
    loss = FgdConfig(type="fgd", lam=0).build(spec, spec)
    terms = loss(make_outputs(spec, 1, 0), make_outputs(spec, 1, 1), make_batch([[]]))
    assert set(terms) == {"foreground", "background", "attention"}
    assert not list(loss.parameters())


def test_a_student_of_other_channels_is_aligned_by_one_cell():
    loss = FgdConfig(type="fgd").build(make_spec(channels=(3, 4, 4)), make_spec())
    assert loss.levels[0].align.weight.shape == (4, 3, 1, 1)
    assert not list(loss.levels[1].align.parameters())


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"strides": (7, 9, 11)}, "none is shared"),
        ({"levels": 4}, {}, "levels: 4 is more than the 3 that both have, of strides 8, 16, 32"),
        ({"alpha": 0, "beta": 0, "gamma": 0, "lam": 0}, {}, "all weights are 0"),
    ],
)
def test_a_pair_that_cannot_work_is_refused_before_it_is_built(settings, changes, message):
    config = TypeAdapter(LossConfig).validate_python({"type": "fgd", **settings})
    (problem,) = config.check(make_spec(**changes), make_spec())
    assert re.search(message, problem), problem


def test_a_teacher_of_one_channel_has_no_bottleneck():
    teacher = make_spec(channels=(1, 1, 1))
    (problem,) = FgdConfig(type="fgd").check(make_spec(), teacher)
    assert "needs 2 of them, but a level has 1" in problem
    assert FgdConfig(type="fgd", lam=0).check(make_spec(), teacher) == []


@pytest.mark.parametrize("wrong", [{"alpha": -1}, {"temperature": 0}, {"levels": 0}, {"lambda": 1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        FgdConfig.model_validate({"type": "fgd", **wrong})
