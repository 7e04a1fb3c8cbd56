"""DRKD by hand: graphs of one and two nodes, instances of one number."""

import math

import pytest
import torch

from compress.detector import Outputs
from compress.losses.drkd import DrkdConfig, InstanceRelation, PixelGraph
from tests.compress.losses.scene import make_batch, make_spec

SPEC = make_spec(channels=(2,), strides=(8,), provides=frozenset({"features"}))
BOXES = [[[0.0, 0.0, 16.0, 16.0]], []]


def settings(**more):
    return DrkdConfig.model_validate({"type": "drkd", **more})


def build(**more):
    config = settings(**more)
    assert config.check(SPEC, SPEC) == []
    torch.manual_seed(0)
    loss = config.build(SPEC, SPEC)
    identity = {"weight": torch.eye(2)[..., None, None], "bias": torch.zeros(2)}
    loss.adapters[0].load_state_dict(identity)
    return loss


def flat(value, pictures=2):
    return Outputs((torch.full((pictures, 2, 8, 8), value),))


def graph(nodes):
    """A graph on one channel, whose projections change nothing."""
    module = PixelGraph(channels=1, node_channels=1, nodes=nodes)
    with torch.no_grad():
        for layer in (module.project, module.restore):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
        module.mix.weight.fill_(1.0)
        module.assign.bias.zero_()
    return module


class TestPixelGraph:
    def test_a_node_holds_the_mean_of_its_cells_and_gives_it_back(self):
        # One node: mean 2, (1 - 0.25) * 2 doubled by the mixing is 3, added to each cell.
        module = graph(nodes=1)
        with torch.no_grad():
            module.adjacency.fill_(0.25)
            module.mix.weight.fill_(2.0)
        assert module(torch.tensor([[[[1.0, 3.0]]]])).tolist() == [[[[4.0, 6.0]]]]

    def test_cells_take_from_their_own_node_what_the_other_node_left(self):
        # Positive cells belong to the first node, negative ones to the second: they hold 2 and -4.
        # The first gives away half of the second: 2 - 0.5 * -4 = 4.
        module = graph(nodes=2)
        with torch.no_grad():
            module.assign.weight.copy_(torch.tensor([100.0, -100.0]).view(2, 1, 1, 1))
            module.adjacency[0, 1] = 0.5
        found = module(torch.tensor([[[[1.0, 3.0, -4.0]]]]))
        torch.testing.assert_close(found, torch.tensor([[[[5.0, 7.0, -8.0]]]]))


class TestInstanceRelation:
    def relation(self):
        """Products of numbers, half of which pass the gate."""
        module = InstanceRelation(length=1, channels=1)
        with torch.no_grad():
            module.first.weight.fill_(1.0)
            module.second.weight.fill_(1.0)
            for gate in (module.gate_first, module.gate_second):
                gate.weight.zero_()
            module.gate_first.bias.zero_()
        return module

    # Student 0 and s with s * s / 2 = ln 3: shares 1/6, 1/6, 1/6, 1/2 over the four pairs; teacher
    # 0 and 0: 1/4 each. 3 * (1/12)^2 + (1/4)^2 = 1/12.
    OWN = torch.tensor([[0.0], [math.sqrt(2 * math.log(3))]])
    OTHER = torch.zeros(2, 1)

    def test_relations_are_shares_of_all_pairs_of_a_picture(self):
        found = self.relation()(self.OWN, self.OTHER, [2])
        assert found.item() == pytest.approx(1 / 12)

    def test_pictures_are_apart_and_those_without_instances_do_not_count(self):
        # a lone instance has one relation, which is 1 on both sides
        own = torch.cat([self.OWN, torch.ones(1, 1)])
        found = self.relation()(own, torch.zeros(3, 1), [2, 0, 1])
        assert found.item() == pytest.approx((1 / 12 + 0) / 2)

    def test_the_gate_looks_at_both_instances(self):
        module = self.relation()
        with torch.no_grad():
            module.gate_first.weight.fill_(-100.0)  # shut where the first of a pair is positive
        found = module.relate(self.OWN[None], torch.ones(1, 4, dtype=torch.bool))
        torch.testing.assert_close(found, torch.full((1, 4), 0.25))


def test_instances_are_compared_as_means_over_their_patches():
    loss = build(pixel_weight=0, relation_weight=0, instance_weight=0.5)
    terms = loss(flat(1.0), flat(3.0), make_batch(BOXES))
    assert {name: term.item() for name, term in terms.items()} == {"instance": pytest.approx(2.0)}


def test_without_boxes_only_the_pixels_relations_are_left():
    terms = build()(flat(1.0), flat(3.0), make_batch([[], []]))
    assert terms["pixel_relation"].item() > 0
    assert terms["instance_relation"].item() == terms["instance"].item() == 0


def test_equal_maps_have_equal_relations_behind_an_identity():
    loss = build()
    loss.after[0].load_state_dict(loss.adapters[0].state_dict())
    terms = loss(flat(2.0), flat(2.0), make_batch(BOXES))
    assert all(term.item() == pytest.approx(0, abs=1e-10) for term in terms.values())


@pytest.mark.parametrize(
    ("more", "changes", "message"),
    [
        ({}, {"strides": (7, 9, 11)}, "none is shared"),
        ({"pixel_weight": 0, "relation_weight": 0, "instance_weight": 0}, {}, "all weights are 0"),
    ],
)
def test_a_pair_that_cannot_work_is_refused_before_it_is_built(more, changes, message):
    (problem,) = settings(**more).check(make_spec(**changes), make_spec())
    assert message in problem


class TestUnequalLevels:
    """A small object is pooled from two channels, one of 240 pixels from four."""

    SPEC = make_spec(channels=(2, 4), strides=(8, 16), provides=frozenset({"features"}))
    BOXES: tuple[list[list[float]], ...] = ([[0.0, 0.0, 60.0, 60.0], [8.0, 8.0, 248.0, 248.0]], [])

    def build(self, **more):
        config = settings(**more)
        assert config.check(self.SPEC, self.SPEC) == []
        torch.manual_seed(0)
        loss = config.build(self.SPEC, self.SPEC)
        for adapter, channels in zip(loss.adapters, self.SPEC.channels, strict=True):
            eye = {"weight": torch.eye(channels)[..., None, None], "bias": torch.zeros(channels)}
            adapter.load_state_dict(eye)
        return loss

    def flat(self, fine, coarse):
        return Outputs((torch.full((2, 2, 32, 32), fine), torch.full((2, 4, 16, 16), coarse)))

    def terms(self, loss, fine, coarse):
        return loss(self.flat(1.0, 1.0), self.flat(fine, coarse), make_batch(self.BOXES, 256))

    def test_instances_of_both_levels_weigh_alike(self):
        loss = self.build(pixel_weight=0, relation_weight=0)
        assert self.terms(loss, 3.0, 1.0)["instance"].item() == pytest.approx(4 / 2)
        assert self.terms(loss, 1.0, 3.0)["instance"].item() == pytest.approx(4 / 2)

    def test_relations_join_instances_of_both_levels(self):
        loss = self.build(pixel_weight=0)
        assert [tuple(layer.weight.shape[:2]) for layer in loss.common] == [(4, 2), (4, 4)]
        terms = self.terms(loss, 1.0, 3.0)
        assert terms["instance_relation"].item() > 0
        terms["instance_relation"].backward()
        assert all(layer.weight.grad.any() for layer in loss.common)
        same = self.terms(loss, 1.0, 1.0)
        assert all(term.item() == 0 for term in same.values())
