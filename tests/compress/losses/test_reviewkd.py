import pytest
import torch

from compress.losses.reviewkd import ReviewKdConfig, pooled_error
from tests.compress.losses.maps import map_spec, total


def test_pooled_maps_weigh_half_of_the_resolution_before():
    # Of 2 x 2 cells one differs by 1: mean square 1/4. Of the pools only 1 is below the height:
    # its difference 1/4 squares to 1/16, and weighs 1/2.
    student = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    expected = (1 / 4 + 1 / 2 * 1 / 16) / (1 + 1 / 2)
    assert float(pooled_error(student, torch.zeros_like(student), (4, 2, 1))) == expected


def test_every_pool_below_the_height_counts_and_the_width_does_not():
    # A constant difference of 1 is 1 at every resolution, so only the weights could spoil it; a
    # stripe along the width vanishes when pooled to one cell, but one row has no such resolution.
    ones = torch.ones(1, 1, 8, 8)
    assert float(pooled_error(ones, torch.zeros_like(ones), (4, 2, 1))) == 1
    row = torch.tensor([[[[1.0, -1.0, 1.0, -1.0]]]])
    assert float(pooled_error(row, torch.zeros_like(row), (4, 2, 1))) == 1
    tall = row.mT
    # Pools 2 and 1 see 0; the map itself weighs 1 of 1 + 1/2 + 1/4.
    assert float(pooled_error(tall, torch.zeros_like(tall), (4, 2, 1))) == pytest.approx(4 / 7)


def test_a_finer_level_is_fused_with_what_the_coarser_one_left():
    maps = [torch.full((1, 1, 2, 2), 4.0), torch.full((1, 1, 1, 1), 2.0)]
    spec = map_spec(maps)
    module = ReviewKdConfig(type="reviewkd", width=1).build(spec, spec)
    module.eval()  # the statistics of a fresh normalisation change nothing (up to its epsilon)
    finer, coarser = module.blocks
    assert coarser.attend is None
    with torch.no_grad():
        for block in module.blocks:
            for layers in (block.reduce, block.expand):
                torch.nn.init.dirac_(layers[0].weight)
        finer.attend.weight.zero_()
        finer.attend.bias.copy_(torch.tensor([0.0, 100.0]))  # shares 1/2 and 1
        fused = module.fuse(maps)
    torch.testing.assert_close(fused[1], maps[1], rtol=1e-4, atol=0)
    torch.testing.assert_close(fused[0], torch.full((1, 1, 2, 2), 4.0), rtol=1e-4, atol=0)


def test_one_picture_on_a_level_of_one_cell_can_be_trained_on():
    maps = [torch.randn(1, 2, 2, 2, requires_grad=True), torch.randn(1, 2, 1, 1)]
    spec = map_spec(maps)
    module = ReviewKdConfig(type="reviewkd", width=3).build(spec, spec)
    value = total(module, maps, [torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 1, 1)])
    value.backward()
    assert value.isfinite()
    assert all(parameter.grad is not None for parameter in module.parameters())
