import pytest
import torch

from compress.losses.at import AtConfig, attention
from tests.compress.losses.maps import cells, one_map


def test_attention_is_the_mean_square_over_channels_scaled_to_length_one():
    # The student's 2, 0 squares to 4, 0 and scales to 1, 0. The teacher's two channels have the
    # mean squares (2 + 4) / 2 = 3 and (8 + 0) / 2 = 4, scaled 0.6, 0.8: (0.4^2 + 0.8^2) / 2.
    teacher = torch.tensor([[[[2.0, 8.0]], [[4.0, 0.0]]]]).sqrt()
    assert one_map(AtConfig(type="at"), cells(2, 0), teacher) == pytest.approx(0.4)


def test_a_map_of_zeros_has_no_attention_and_a_finite_gradient():
    student = torch.zeros(1, 1, 1, 2, requires_grad=True)
    attention(student).square().sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
