"""Crops: what a box holds, at one size, with a gradient to the box."""

import pytest
import torch

from compress.parts.crops import crop_boxes


def ramp(height: int = 8, width: int = 8) -> torch.Tensor:
    """Every pixel holds its column's centre, in pixels."""
    return (torch.arange(width) + 0.5).expand(1, 3, height, width).clone()


def test_a_crop_samples_the_centres_of_a_boxs_cells():
    (crop,) = crop_boxes(ramp(), [torch.tensor([[2.0, 1.0, 6.0, 5.0]])], 2)
    # cells of 2 pixels from column 2: centres at 3 and 5
    assert crop[0].tolist() == [[3.0, 5.0], [3.0, 5.0]]


def test_crops_come_picture_by_picture_and_a_picture_may_have_none():
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8), torch.full((3, 8, 8), 2.0)])
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    crops = crop_boxes(images, [box, box[:0], box.repeat(2, 1)], 4)
    assert crops.mean(dim=(1, 2, 3)).tolist() == [0.0, 2.0, 2.0]
    assert crop_boxes(images, [box[:0]] * 3, 4).shape == (0, 3, 4, 4)


def test_a_box_beyond_the_picture_is_clamped_to_it():
    inside, beyond = (
        crop_boxes(ramp(), [torch.tensor([[4.0, 0.0, x2, 8.0]])], 4) for x2 in (8.0, 20.0)
    )
    assert torch.equal(inside, beyond)


def test_the_gradient_of_a_crop_reaches_its_box():
    box = torch.tensor([[2.0, 1.0, 6.0, 5.0]], requires_grad=True)
    crop_boxes(ramp(), [box], 2)[0, 0].mean().backward()
    # the mean of the columns' centres is (x1 + x2) / 2
    assert box.grad is not None
    assert box.grad[0].tolist() == pytest.approx([0.5, 0.0, 0.5, 0.0], abs=1e-5)
