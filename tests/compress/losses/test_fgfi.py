"""FGFI by hand: overlaps of squares on a small grid, maps of constants."""

import re
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from compress.detector import Outputs
from compress.losses import LossConfig
from compress.losses import fgfi as module
from compress.losses.fgfi import FgfiConfig, near_cells
from tests.compress.losses.scene import make_batch, make_spec

# Four cells in a row with two anchors each: a square of 8 px, and one of 16 px around it.
SQUARES = torch.tensor(
    [
        [8.0 * cell - grow, -grow, 8.0 * cell + 8 + grow, 8 + grow]
        for cell in range(4)
        for grow in (0.0, 4.0)
    ]
)


def near(*boxes, phi=0.5, pictures=1, picture=None):
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    owner = torch.tensor(picture or [0] * len(boxes), dtype=torch.int64)
    return near_cells(rows, owner, pictures, SQUARES, cells=4, phi=phi).int().tolist()


@pytest.mark.parametrize(
    ("phi", "expected"),
    # The box is the first square. Overlaps of the small squares: 1, 0, 0, 0; of the large ones:
    # 64 / 256 = 1/4, then 32 / (256 + 64 - 32) = 1/9, 0, 0. By cell: 1, 1/9, 0, 0; more is asked.
    [(0.5, [1, 0, 0, 0]), (1 / 9, [1, 0, 0, 0]), (0.11, [1, 1, 0, 0]), (0.0, [1, 1, 0, 0])],
)
def test_a_cell_is_near_if_any_of_its_anchors_overlaps_enough(phi, expected):
    assert near([0, 0, 8, 8], phi=phi) == [expected]


def test_the_threshold_is_a_share_of_the_best_overlap():
    # 4 px wide, half in each of the first two cells: 16 / (64 + 32 - 16) = 1/5 with their small
    # squares, which is the best; nothing with those of the others.
    box = [6.0, 0.0, 10.0, 8.0]
    assert near(box, phi=0.999) == [[1, 1, 0, 0]]


def test_a_box_that_no_anchor_overlaps_marks_nothing():
    assert near([100, 100, 120, 120], phi=0.0) == [[0, 0, 0, 0]]


def test_each_picture_has_the_cells_of_its_own_boxes():
    found = near([0, 0, 8, 8], [24, 0, 32, 8], [8, 0, 16, 8], pictures=3, picture=[0, 2, 2])
    assert found == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]


def test_many_boxes_are_compared_in_parts(monkeypatch):
    boxes = [[8.0 * cell, 0, 8.0 * cell + 8, 8] for cell in (0, 1, 3)]
    whole = near(*boxes)
    monkeypatch.setattr(module, "OVERLAPS_AT_ONCE", 1)
    assert near(*boxes) == whole == [[1, 1, 0, 1]]


def scene(value=1.0, levels=1, channels=2, pictures=1):
    """A student whose adapters give `value` everywhere, and a teacher of zeros, on 32 px."""
    strides = tuple(8 * 2**level for level in range(levels))
    spec = make_spec(channels=(channels,) * levels, strides=strides)
    sides = [32 // stride for stride in strides]
    maps = tuple(torch.zeros(pictures, channels, side, side) for side in sides)
    anchors = []
    for stride, side in zip(strides, sides, strict=True):
        corner = torch.arange(side) * float(stride)
        y, x = torch.meshgrid(corner, corner, indexing="ij")
        anchors.append(torch.stack([x, y, x + stride, y + stride], dim=-1).reshape(-1, 4))
    return spec, Outputs(maps, anchors=tuple(anchors)), value


def build(spec, value, **settings):
    loss = FgfiConfig.model_validate({"type": "fgfi", **settings}).build(spec, spec)
    with torch.no_grad():
        for name, weight in loss.named_parameters():
            weight.fill_(value if name.endswith("bias") else 0.0)
    return loss


def feature(boxes, made, **settings):
    spec, outputs, value = made
    loss = build(spec, value, **settings)
    terms = loss(outputs, outputs, make_batch(boxes, size_px=32))
    return float(terms["feature"].detach())


ONE_CELL = [[8.0, 8.0, 16.0, 16.0]]


def test_the_error_is_half_a_mean_over_the_near_elements():
    # (1 cell x 2 channels x 3^2) / (2 x 2 x 1)
    assert feature([ONE_CELL], scene(3.0)) == pytest.approx(4.5)
    assert feature([ONE_CELL], scene(3.0), weight=2.0) == pytest.approx(9.0)


def test_the_original_release_takes_a_mean_over_cells():
    assert feature([ONE_CELL], scene(3.0), average="cells") == pytest.approx(9.0)


def test_the_original_release_ends_its_adapter_in_a_relu():
    assert feature([ONE_CELL], scene(-3.0)) == pytest.approx(4.5)
    assert feature([ONE_CELL], scene(-3.0), activation="relu") == 0


def test_a_box_counts_on_its_own_level_or_on_all():
    # Assigned: the coarser level is empty and still counts in the mean.
    assert feature([ONE_CELL], scene(3.0, levels=2)) == pytest.approx(4.5 / 2)
    assert feature([ONE_CELL], scene(3.0, levels=2), levels="all") == pytest.approx(4.5)


def test_pictures_without_boxes_add_nothing():
    assert feature([[], ONE_CELL], scene(3.0, pictures=2)) == pytest.approx(4.5)
    assert feature([[], []], scene(3.0, pictures=2)) == 0


def test_the_mask_follows_a_map_that_differs_by_rounding():
    # The student has 3 x 3 cells, of which the first is near; on the teacher's 4 x 4 it is seen by
    # rows and columns 0 and 1 (0, 3 // 4, 6 // 4 = 1, 9 // 4 = 2).
    spec, outputs, _ = scene()
    loss = build(spec, 0.0)
    keep = [row * 4 + column for row in range(3) for column in range(3)]
    student = Outputs((torch.zeros(1, 2, 3, 3),), anchors=(outputs.anchors[0][keep],))
    teacher = torch.zeros(1, 2, 4, 4)
    teacher[..., :2, :2] = 1.0
    batch = make_batch([[[0.0, 0.0, 8.0, 8.0]]], size_px=32)
    terms = loss(student, replace(outputs, features=(teacher,)), batch)
    assert float(terms["feature"].detach()) == pytest.approx(0.5)
    teacher[..., 2:, 2:] = 9.0  # beyond the mask
    terms = loss(student, replace(outputs, features=(teacher,)), batch)
    assert float(terms["feature"].detach()) == pytest.approx(0.5)


def test_a_pair_without_a_common_level_is_refused():
    config = TypeAdapter(LossConfig).validate_python({"type": "fgfi"})
    (problem,) = config.check(make_spec(strides=(7, 9, 11)), make_spec())
    assert re.search("none is shared", problem)


@pytest.mark.parametrize("wrong", [{"phi": 1}, {"phi": -0.1}, {"levels": 3}, {"activation": "elu"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        FgfiConfig.model_validate({"type": "fgfi", **wrong})
