"""Patches equal torchvision's RoIAlign, backward pass included."""

import pytest
import torch
from torchvision.ops import roi_align

from compress.losses.parts.patches import pool_every_level, pool_instances

BOXES = torch.tensor(
    [
        [1.0, 2.0, 5.5, 7.25],  # inside
        [-3.0, -2.5, 4.0, 3.0],  # over the top left
        [6.0, 5.0, 13.0, 12.0],  # over the bottom right
        [2.3, 2.3, 2.4, 2.9],  # thinner than a cell
        [3.0, 3.0, 3.0, 3.0],  # without area
        [0.0, 0.0, 9.0, 8.0],  # all of it
    ]
)


@pytest.mark.parametrize("size", [1, 4, 10])
def test_a_patch_is_torchvisions_roi_align(size: int) -> None:
    features = torch.randn(3, 8, 9, dtype=torch.float64, requires_grad=True)
    boxes = BOXES.double()
    rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
    expected = roi_align(features[None], rois, size, 1.0, 2, True)
    found = pool_instances([features[None]], (1,), [boxes], size)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), features)
    (ours,) = torch.autograd.grad((found * weights).sum(), features)
    torch.testing.assert_close(ours, theirs)


def test_patches_come_in_the_order_of_the_boxes_over_pictures_and_levels() -> None:
    maps = [torch.full((2, 1, 8, 8), 1.0), torch.full((2, 1, 4, 4), 2.0)]
    maps[0][1], maps[1][1] = 3.0, 4.0
    small, large = [8.0, 8.0, 24.0, 24.0], [0.0, 0.0, 230.0, 230.0]
    boxes = [torch.tensor([large, small]), torch.tensor([small, large])]
    pooled = pool_instances(maps, (8, 16), boxes, 1)
    # the large boxes reach beyond the maps; what lies outside counts nothing
    assert pooled[1].item() == 1.0
    assert pooled[2].item() == 3.0
    assert pooled[0].item() > 0
    assert pooled[3].item() == pytest.approx(2 * pooled[0].item())


def test_no_boxes_give_no_patches_that_are_still_attached() -> None:
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    pooled = pool_instances([features], (8,), [torch.zeros(0, 4), torch.zeros(0, 4)], 5)
    assert pooled.shape == (0, 3, 5, 5)
    pooled.sum().backward()
    assert features.grad is not None


def test_every_level_gives_the_patch_that_it_would_give_alone() -> None:
    maps = [torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)]
    boxes = [torch.tensor([[8.0, 8.0, 24.0, 24.0], [0.0, 3.0, 50.0, 60.0]]), torch.zeros(0, 4)]
    found = pool_every_level(maps, (8, 16), boxes, 4)
    assert found.shape == (2, 2, 3, 4, 4)
    for index, stride in enumerate((8, 16)):
        alone = pool_instances([maps[index]], (stride,), boxes, 4)
        torch.testing.assert_close(found[:, index], alone)
