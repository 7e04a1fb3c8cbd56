import pytest
import torch

from compress.losses.mgd import MgdConfig
from tests.compress.losses.maps import map_spec, total
from tests.compress.losses.scene import EVERYTHING


def build(maps, student=None, **settings):
    spec = map_spec(maps)
    return MgdConfig.model_validate({"type": "mgd", **settings}).build(student or spec, spec)


def pass_through(module):
    """Make every generator return its input, for inputs that are not negative."""
    with torch.no_grad():
        for layers in module.generators:
            for conv in (layers[0], layers[2]):
                torch.nn.init.dirac_(conv.weight)
                conv.bias.zero_()
    return module


def test_masked_cells_have_to_be_generated():
    maps = torch.full((2, 1, 2, 2), 3.0)
    module = pass_through(build([maps], loss_weight=0.5, masked=0.25))
    draw = torch.tensor([0.1, 0.75, 0.76, 0.9, 0.0, 0.2, 0.3, 0.4]).reshape(2, 1, 2, 2)
    # Above 1 - 0.25 two cells are hidden, each 3 short: (9 + 9) over two pictures, halved.
    error = module.generation_error([(maps, maps)], [draw]).detach()
    assert float(error) == pytest.approx(4.5)


def test_a_cell_is_hidden_in_all_channels_or_a_channel_in_all_cells():
    maps = [torch.zeros(2, 3, 2, 2), torch.zeros(2, 5, 1, 1)]
    by_cell = build(maps).draw(maps, (4, 5))
    assert [drawn.shape for drawn in by_cell] == [(2, 1, 2, 2), (2, 1, 1, 1)]
    by_channel = build(maps, mask="channel").draw(maps, (4, 5))
    assert [drawn.shape for drawn in by_channel] == [(2, 3, 1, 1), (2, 5, 1, 1)]


def test_the_mask_depends_on_the_seed_the_step_and_the_picture():
    maps = [torch.zeros(2, 3, 4, 4)]
    module = build(maps)

    def draw(seed, step, *image_ids):
        torch.manual_seed(seed)
        module.at(step, 100)
        return module.draw(maps, image_ids)[0]

    first = draw(0, 0, 7, 8)
    assert torch.equal(draw(0, 0, 7, 8), first)
    assert torch.equal(draw(0, 0, 8, 7), first.flip(0))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(draw(0, 1, 7, 8), first)
    assert not torch.equal(draw(1, 0, 7, 8), first)


def test_the_published_share_of_cells_is_hidden():
    maps = torch.ones(2, 1, 100, 100)
    module = pass_through(build([maps], loss_weight=1.0))
    # Each hidden cell costs 1, and 65 of 100 are; the standard deviation of their number is 34.
    assert float(total(module, [maps], [maps]).detach()) == pytest.approx(6500, abs=200)


def test_the_defaults_are_the_published_ones_for_the_students_family():
    maps = [torch.zeros(1, 1, 2, 2)] * 6
    one_stage = build(maps)
    assert (one_stage.loss_weight, one_stage.masked, len(one_stage.generators)) == (2e-5, 0.65, 5)
    two_stage = build(maps, student=map_spec(maps, provides=EVERYTHING))
    assert (two_stage.loss_weight, two_stage.masked, len(two_stage.generators)) == (5e-7, 0.45, 4)
    chosen = build(maps, loss_weight=1.0, masked=0.0, levels=2)
    assert (chosen.loss_weight, chosen.masked, len(chosen.generators)) == (1.0, 0.0, 2)
