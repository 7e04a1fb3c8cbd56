import math

import pytest
import torch

from compress.losses.fbkd import FbkdConfig, NonLocal, level_errors, spatial_attention
from tests.compress.losses.maps import cells, map_spec, run


def test_attention_is_a_softmax_over_cells_of_mean_one():
    # Mean sizes 0 and ln(3) / 2 over the temperature 1/2: shares 1/4 and 3/4 of two cells.
    maps = torch.tensor([[[[0.0, math.log(3)]], [[0.0, 0.0]]]])
    torch.testing.assert_close(spatial_attention(maps, 0.5), cells(0.5, 1.5))


def test_each_error_is_the_root_of_a_sum_and_attention_weighs_the_squares():
    # Both sides' attention has the mean 4 and 1: sqrt(4 * 3^2 + 1 * 8^2) = 10; the others are
    # plain: sqrt(3^2 + 8^2).
    pair = cells(3, 8), cells(0, 0)
    errors = level_errors({"feature": pair, "spatial": pair}, (cells(3, 2), cells(5, 0)))
    assert float(errors["feature"]) == 10
    assert float(errors["spatial"]) == pytest.approx(math.sqrt(73))


def test_equal_maps_give_a_gradient_of_zero():
    student = torch.ones(1, 1, 1, 2, requires_grad=True)
    attention = torch.ones(1, 1, 1, 2)
    errors = level_errors({"feature": (student, torch.ones(1, 1, 1, 2))}, (attention, attention))
    errors["feature"].backward()
    assert student.grad is not None
    assert student.grad.flatten().tolist() == [0.0, 0.0]


def test_a_non_local_block_adds_what_similar_cells_hold():
    block = NonLocal(4, reduction=2, pool=2)
    maps = torch.randn(2, 4, 4, 6)
    query = block.query(maps).flatten(2)
    key, value = (
        torch.nn.functional.max_pool2d(conv(maps), 2).flatten(2)
        for conv in (block.key, block.value)
    )
    similar = torch.einsum("bcq,bck->bqk", query, key) / 6  # over the 2 x 3 pooled cells
    found = torch.einsum("bqk,bck->bcq", similar, value).reshape(2, 2, 4, 6)
    torch.testing.assert_close(block(maps), maps + block.out(found))


def test_a_map_smaller_than_a_blocks_pool_is_seen_as_one_cell():
    assert NonLocal(4, reduction=4, pool=8)(torch.zeros(1, 4, 3, 5)).shape == (1, 4, 3, 5)


def test_a_term_of_weight_zero_brings_no_parameters():
    maps = [torch.randn(2, 4, 4, 4)]
    spec = map_spec(maps)
    config = FbkdConfig(type="fbkd", feature_weight=0, relation_weight=0)
    assert config.check(spec, spec) == []
    module = config.build(spec, spec)
    assert set(run(module, maps, maps)) == {"channel", "spatial"}
    assert {name.split(".")[3] for name, _ in module.named_parameters()} == {"channel", "spatial"}


def test_every_level_needs_its_own_reduction_and_pool():
    spec = map_spec([torch.zeros(1, 4, 4, 4)])
    problems = FbkdConfig(type="fbkd", levels=5, pools=(8, 4, 2, 2, 2)).check(spec, spec)
    assert problems == ["levels: 5 needs as many reductions, one per level, finest first; it has 4"]


def test_weights_that_are_all_zero_are_refused():
    nothing = FbkdConfig(
        type="fbkd", feature_weight=0, channel_weight=0, spatial_weight=0, relation_weight=0
    )
    spec = map_spec([torch.zeros(1, 4, 4, 4)])
    assert "nothing is imitated" in nothing.check(spec, spec)[0]
