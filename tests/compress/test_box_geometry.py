"""Overlaps and coordinates of generated boxes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from compress.detectors.parts.gfl_losses import distances_to_boxes
from compress.losses.dicod import paired_iou

CORNER = st.integers(0, 20).map(lambda number: number / 2)  # exact in float32
DISTANCE = st.integers(0, 64).map(lambda number: number / 4)


def _boxes(corners: torch.Tensor) -> torch.Tensor:
    """Order the corners (n, 4) to xyxy; a box may have no area."""
    low, high = corners.unflatten(1, (2, 2)).sort(dim=1).values.unbind(1)
    return torch.cat([low, high], dim=1)


@pytest.mark.slow
@given(pairs=st.lists(st.tuples(*[CORNER] * 8), min_size=1, max_size=6))
def test_overlaps_row_by_row_are_the_diagonal_of_all_pairs(
    pairs: list[tuple[float, ...]],
) -> None:
    corners = torch.tensor(pairs)
    boxes, others = _boxes(corners[:, :4]), _boxes(corners[:, 4:])
    expected = box_iou(boxes, others).diagonal().nan_to_num()  # 0 / 0 where none has area
    assert paired_iou(boxes, others).tolist() == pytest.approx(expected.tolist())
    assert torch.equal(paired_iou(others, boxes), paired_iou(boxes, others))


@pytest.mark.slow
@given(
    distances=st.lists(st.tuples(*[DISTANCE] * 4), min_size=1, max_size=6),
    centre=st.tuples(CORNER, CORNER),
    stride=st.sampled_from([8.0, 16.0, 32.0]),
)
def test_distances_from_a_centre_are_those_of_the_box(
    distances: list[tuple[float, ...]], centre: tuple[float, float], stride: float
) -> None:
    count = len(distances)
    centres, strides = torch.tensor(centre).expand(count, 2), torch.full((count, 1), stride)
    boxes = distances_to_boxes(torch.tensor(distances), centres, strides)
    back = torch.cat([centres - boxes[:, :2], boxes[:, 2:] - centres], dim=1) / stride
    assert back.tolist() == [list(row) for row in distances]
