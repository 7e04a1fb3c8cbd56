"""DeFeat's mask rule, by hand."""

import pytest
import torch

from compress.losses.parts.masks import (
    BOXES_AT_ONCE,
    between,
    box_levels,
    largest_product,
    level_masks,
    nearest,
    pad_boxes,
    union_mask,
)


def cells(mask):
    """The marked (row, column) pairs of one picture."""
    return {(int(row), int(column)) for row, column in mask.nonzero()}


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("side_px", "level"),
    # side + 1 over 56: below 2 is level 0, then a level per octave.
    [(3, 0), (55, 0), (110, 0), (111, 1), (222, 1), (223, 2), (447, 3), (895, 4), (5000, 4)],
)
def test_a_box_belongs_to_the_level_of_its_size(side_px, level):
    assert box_levels(boxes([10, 20, 10 + side_px, 20 + side_px]), 5).tolist() == [level]


def test_the_coarsest_level_takes_all_larger_boxes():
    assert box_levels(boxes([0, 0, 895, 895], [0, 0, 223, 223]), 3).tolist() == [2, 2]


def test_the_level_depends_on_the_area_alone():
    # 448 x 28 is as large as 112 x 112.
    assert box_levels(boxes([0, 0, 447, 27], [0, 0, 446, 27]), 5).tolist() == [1, 0]


def test_a_box_marks_its_own_level_and_no_other():
    # 111 px is the first of level 1; stride 16: columns 0..5 and rows 1..7.
    small, large = level_masks([boxes([0, 16, 111, 128])], (8, 16), ((16, 16), (8, 8)))
    assert not small.any()
    assert cells(large[0]) == {(row, column) for row in range(1, 8) for column in range(6)}


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([8, 8, 32, 24], {(row, column) for row in (1, 2) for column in (1, 2, 3)}),
        ([9, 9, 31, 23], {(1, 1), (1, 2)}),  # 1.1..3.9 -> 1..2, rows 1.1..2.9 -> 1
        ([17, 20, 22, 90], {(2, 2)}),  # columns 2 and 2: one cell, whatever its rows
        ([20, 17, 90, 22], {(2, 2)}),
        ([1, 1, 2, 2], {(0, 0)}),
        ([-20, -5, 12, 12], {(0, 0)}),
        ([-30, -30, 20, 12], {(0, 0), (0, 1)}),
        ([-7, -7, -1, -1], {(0, 0)}),  # truncated towards zero
        ([70, 72, 200, 200], {(9, 8), (9, 9)}),  # over the border, clipped at 10
        ([80, 0, 80, 16], {(0, 9)}),  # thin, on the border: clamped into the map
        ([0, 80, 16, 80], {(9, 0)}),
        ([80, 80, 90, 90], {(9, 9)}),
        ([100, 16, 200, 32], set()),  # wholly outside
        ([-40, 16, -16, 32], set()),
        ([0, 0, 80, 80], {(row, column) for row in range(10) for column in range(10)}),
    ],
)
def test_the_cells_of_a_box(box, expected):
    assert cells(union_mask([boxes(box)], 8, (10, 10))[0]) == expected


def test_overlapping_boxes_are_one_region():
    mask = union_mask([boxes([0, 0, 16, 16], [8, 8, 24, 24], [0, 0, 16, 16])], 8, (4, 4))[0]
    assert cells(mask) == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2)}


def test_each_picture_has_its_own_boxes_and_may_have_none():
    mask = union_mask([boxes(), boxes([0, 0, 8, 8]), boxes([8, 8, 16, 16])], 8, (2, 3))
    assert mask.shape == (3, 2, 3)
    assert [cells(one) for one in mask] == [set(), {(0, 0)}, {(1, 1)}]


def test_no_picture_has_a_box():
    (mask,) = level_masks([boxes(), boxes()], (8,), ((3, 3),))
    assert mask.shape == (2, 3, 3)
    assert not mask.any()


def test_a_mask_is_resampled_by_whole_numbers():
    mask = torch.arange(5)[None, None] % 2 == 1  # columns 1 and 3 of 5
    # 3 columns look at 0, 5 // 3 = 1 and 10 // 3 = 3.
    assert nearest(mask, torch.zeros(1, 1, 1, 3)).tolist() == [[[False, True, True]]]


def test_padding_is_no_box():
    padded, real = pad_boxes([boxes(), boxes([1, 2, 3, 4], [5, 6, 7, 8]), boxes([9, 9, 10, 10])])
    assert padded.shape == (3, 2, 4)
    assert real.tolist() == [[False, False], [True, True], [True, False]]
    assert padded[1, 1].tolist() == [5, 6, 7, 8]


def test_the_larger_of_two_overlapping_boxes_stands():
    # Rows 0..1 and columns 0..1 of weight 2, rows 1..2 and columns 1..2 of weight 3.
    rows = torch.tensor([[[2.0, 2.0, 0.0], [0.0, 3.0, 3.0]]])
    columns = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]])
    assert largest_product(rows, columns)[0].tolist() == [[2, 2, 0], [2, 3, 3], [0, 3, 3]]


def test_many_boxes_are_drawn_in_parts():
    count = 2 * BOXES_AT_ONCE + 1
    places = torch.arange(count)[None]
    eye = between(count, places, places + 1).float()
    assert largest_product(eye, eye).equal(torch.eye(count)[None])


def test_nothing_is_drawn_without_boxes():
    assert not largest_product(torch.zeros(2, 0, 3), torch.zeros(2, 0, 4)).any()
