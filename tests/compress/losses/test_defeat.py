"""DeFeat by hand: adapter `none`, maps of constants, masks of known cells."""

import math
import re

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from compress.detector import Outputs, Rois
from compress.losses import LossConfig
from compress.losses.defeat import DeFeatConfig, tiny_conv
from compress.losses.parts.responses import divergence
from tests.compress.losses.scene import (
    make_batch,
    make_outputs,
    make_spec,
)

ONE_CELL = [[0.0, 0.0, 8.0, 8.0]]


def build(student, teacher, **settings):
    config = DeFeatConfig.model_validate({"type": "defeat", **settings})
    assert config.check(student, teacher) == []
    return config.build(student, teacher)


def flat_spec(levels=1, **changes):
    """Two channels on each of `levels` maps from stride 8; 32 pixels are 4 cells of the first."""
    channels, strides = (2,) * levels, tuple(8 * 2**level for level in range(levels))
    return make_spec(channels=channels, strides=strides, **changes)


def flat(value, levels=1, pictures=1, **more):
    maps = tuple(torch.full((pictures, 2, 4 // 2**i, 4 // 2**i), value) for i in range(levels))
    return Outputs(maps, **more)


def neck_terms(boxes, *, levels=1, **settings):
    spec = flat_spec(levels, provides=frozenset({"features"}))
    loss = build(spec, spec, adapter="none", **settings)
    pictures = len(boxes)
    student = flat(0.0, levels, pictures)
    terms = loss(student, flat(2.0, levels, pictures), make_batch(boxes, size_px=32))
    return {name: float(term) for name, term in terms.items()}


def test_the_error_is_halved_and_averaged_over_the_masked_elements():
    # Squared error 4 everywhere, so each side is 4 / 2 = 2 whatever its number of cells.
    assert neck_terms([ONE_CELL]) == {"neck_object": 3 * 2.0, "neck_background": 12 * 2.0}


def test_a_level_without_objects_still_counts_in_the_mean_over_levels():
    terms = neck_terms([ONE_CELL], levels=2)
    assert terms == {"neck_object": 3 * (2.0 + 0) / 2, "neck_background": 12 * 2.0}


def test_a_box_over_the_whole_map_leaves_no_background():
    terms = neck_terms([[[0, 0, 32, 32]]])
    assert terms == {"neck_object": 3 * 2.0, "neck_background": 0.0}


def test_a_batch_without_boxes_is_background_alone():
    assert neck_terms([[], []]) == {"neck_object": 0.0, "neck_background": 12 * 2.0}


def test_cells_are_counted_over_the_whole_batch():
    spec = flat_spec(provides=frozenset({"features"}))
    loss = build(spec, spec, adapter="none")
    student = flat(0.0, pictures=2).features[0]
    student[0, :, 0, 0] = 3.0  # the first picture's one object cell; the second has three
    boxes = [ONE_CELL, [[0.0, 0.0, 24.0, 8.0]]]
    terms = loss(Outputs((student,)), flat(0.0, pictures=2), make_batch(boxes, size_px=32))
    # Channels 2, object cells 4: (2 * 9) / (2 * 2 * 4)
    assert float(terms["neck_object"]) == pytest.approx(3 * 18 / 16)
    assert float(terms["neck_background"]) == 0


def test_the_masks_are_normalised_by_the_teachers_channels():
    student, teacher = (make_spec(channels=(c,), strides=(8,)) for c in (1, 3))
    loss = build(student, teacher, roi_object_weight=0.0, roi_background_weight=0.0)
    with torch.no_grad():
        loss.neck_adapters[0].weight.zero_()
        loss.neck_adapters[0].bias.fill_(1.0)
    terms = loss(
        Outputs((torch.zeros(1, 1, 4, 4),)),
        Outputs((torch.zeros(1, 3, 4, 4),)),
        make_batch([ONE_CELL], size_px=32),
    )
    assert float(terms["neck_object"].detach()) == pytest.approx(3 * 0.5)
    assert float(terms["neck_background"].detach()) == pytest.approx(12 * 0.5)


def test_a_part_whose_weights_are_zero_is_not_computed():
    spec = flat_spec(provides=frozenset({"features", "backbone"}))
    loss = build(
        spec, spec, object_weight=0, background_weight=0, backbone_object_weight=1, weight=2
    )
    terms = loss(make_outputs(spec, 1, 0), make_outputs(spec, 1, 1), make_batch([ONE_CELL]))
    assert set(terms) == {"backbone_object"}
    assert loss.neck_adapters is None


def test_maps_that_differ_by_rounding_are_compared_on_the_teachers_grid():
    spec = flat_spec(provides=frozenset({"features"}))
    loss = build(spec, spec, adapter="none")
    student = Outputs((torch.full((1, 2, 3, 3), 1.0),))
    terms = loss(student, flat(2.0), make_batch([ONE_CELL], size_px=32))
    assert float(terms["neck_object"]) == pytest.approx(3 * 0.5)


class TestBackbone:
    def spec(self, channels=2):
        return make_spec(
            channels=(2,), strides=(8,), backbone_channels=(channels,), backbone_strides=(16,)
        )

    def terms(self, boxes, bias):
        spec = self.spec()
        loss = build(
            spec,
            spec,
            adapter="none",
            backbone_object_weight=1,
            backbone_background_weight=5,
            roi_object_weight=0,
            roi_background_weight=0,
        )
        with torch.no_grad():
            loss.backbone_adapters[0].weight.zero_()
            loss.backbone_adapters[0].bias.fill_(bias)
        stage = (torch.zeros(1, 2, 2, 2),)
        found = loss(
            flat(0.0, backbone=stage), flat(0.0, backbone=stage), make_batch(boxes, size_px=32)
        )
        return tuple(float(found[f"backbone_{side}"].detach()) for side in ("object", "background"))

    def test_the_mask_is_drawn_on_the_finest_neck_grid_and_resampled(self):
        # Of 4 x 4 cells the stage's 2 x 2 look at rows and columns 0 and 2.
        assert self.terms([[[8, 8, 16, 16]]], bias=2.0) == (0.0, 5 * 2.0)  # cell (1, 1): unseen
        assert self.terms([[[16, 16, 24, 24]]], bias=2.0) == (2.0, 5 * 2.0)  # cell (2, 2): seen

    def test_the_mask_holds_boxes_of_every_size(self):
        # 31 px would be level 0 anyway; a box of 300 px has no other level here, nor needs one.
        assert self.terms([[[0, 0, 300, 300]]], bias=2.0) == (2.0, 0.0)

    def test_the_adapter_ends_in_a_relu(self):
        assert self.terms([[[0, 0, 32, 32]]], bias=-2.0) == (0.0, 0.0)


class TestProposals:
    def terms(self, labels, **settings):
        """Student uniform over two columns, teacher 3 : 1 for the first, on every proposal."""
        spec = flat_spec(num_classes=1)
        loss = build(spec, spec, **settings)
        rows = len(labels)
        teacher = torch.tensor([[math.log(3.0), 0.0]]).repeat(rows, 1)
        outputs = [
            flat(0.0, rois=Rois((), torch.tensor(labels), logits, torch.zeros(rows, 1, 4)))
            for logits in (torch.zeros(rows, 2, requires_grad=True), teacher)
        ]
        found = loss(*outputs, make_batch([ONE_CELL], size_px=32))
        return float(found["roi_object"].detach()), float(found["roi_background"].detach())

    # KL = 3/4 log(3/4 : 1/2) + 1/4 log(1/4 : 1/2)
    DIVERGENCE = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)

    def test_each_side_is_a_mean_over_its_own_proposals(self):
        expected = pytest.approx((2 * self.DIVERGENCE, 2 * self.DIVERGENCE))
        assert self.terms([0, 1, 1, 1]) == expected

    def test_without_positives_the_object_term_is_zero(self):
        assert self.terms([1, 1]) == pytest.approx((0.0, 2 * self.DIVERGENCE))

    def test_without_negatives_every_proposal_is_an_object(self):
        # The largest label in the batch is 0 here, and it is no background.
        assert self.terms([0, 0, 0]) == pytest.approx((2 * self.DIVERGENCE, 0.0))

    def test_the_students_labels_count(self):
        spec = flat_spec(num_classes=1)
        logits = torch.tensor([[math.log(3.0), 0.0]])
        rois = [
            Rois((), torch.tensor([label]), row, torch.zeros(1, 1, 4))
            for label, row in ((0, torch.zeros(1, 2)), (1, logits))
        ]
        loss = build(spec, spec)
        found = loss(flat(0.0, rois=rois[0]), flat(0.0, rois=rois[1]), make_batch([ONE_CELL], 32))
        assert float(found["roi_object"]) == pytest.approx(2 * self.DIVERGENCE)
        assert float(found["roi_background"]) == 0

    def test_no_proposals_at_all(self):
        assert self.terms([]) == (0.0, 0.0)

    def test_each_side_has_its_own_temperature(self):
        # At T = 2 the teacher's odds are sqrt(3) : 1.
        p = math.sqrt(3) / (1 + math.sqrt(3))
        warm = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
        found = self.terms([0, 1], temperature_background=2.0, roi_background_weight=0.5)
        assert found == pytest.approx((2 * self.DIVERGENCE, 0.5 * warm))


def test_the_divergence_of_a_row_grows_with_its_own_logits_only():
    student = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    teacher = torch.tensor([[math.log(3.0), 0.0], [5.0, 5.0]])
    expected = torch.tensor([TestProposals.DIVERGENCE, 0.0])
    torch.testing.assert_close(divergence(student, teacher, 1.0), expected)


def test_the_adapters_start_near_zero_with_both_signs():
    torch.manual_seed(0)
    weight = tiny_conv(16, 16).weight
    assert float(weight.detach().abs().max()) < 2e-4
    assert 0.4 < float((weight > 0).float().mean()) < 0.6
    # The remainder keeps the sign: |w| of 2 and more comes back near 0, so the spread is below 1.
    assert 0.7e-4 < float(weight.detach().std()) < 0.95e-4


def test_stages_are_the_usual_ones_that_both_have():
    student = make_spec(backbone_channels=(2, 3, 4), backbone_strides=(4, 8, 16))
    teacher = make_spec(backbone_channels=(2, 3, 4, 5), backbone_strides=(4, 8, 16, 32))
    config = DeFeatConfig(type="defeat")
    assert config.stage_pairs(student, teacher).strides == (8, 16)
    chosen = DeFeatConfig(type="defeat", backbone_stages=(4, 16))
    assert chosen.stage_pairs(student, teacher).strides == (4, 16)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"adapter": "none"}, {"channels": (4, 4, 5)}, r"adapter: none .*\(5, 4\).* adapter: conv"),
        ({}, {"strides": (7, 9, 11)}, "none is shared"),
        ({}, {"num_classes": 2}, "2 classes and the teacher 3"),
        (
            {"backbone_object_weight": 1, "backbone_stages": [8, 64]},
            {},
            "stride 64 are wanted; the student has 4, 8, 16, 32, .* backbone_stages",
        ),
        (
            {"backbone_object_weight": 1},
            {"backbone_channels": (2,), "backbone_strides": (4,)},
            "stride 8, 16, 32 are wanted",
        ),
        (
            {"object_weight": 0, "background_weight": 0, "roi_object_weight": 0}
            | {"roi_background_weight": 0},
            {},
            "all weights are 0",
        ),
    ],
)
def test_a_pair_that_cannot_work_is_refused_before_it_is_built(settings, changes, message):
    config = TypeAdapter(LossConfig).validate_json(
        TypeAdapter(dict).dump_json({"type": "defeat", **settings})
    )
    (problem,) = config.check(make_spec(**changes), make_spec())
    assert re.search(message, problem), problem


def test_unlike_class_lists_do_not_matter_without_proposals():
    config = DeFeatConfig(type="defeat", roi_object_weight=0, roi_background_weight=0)
    assert config.check(make_spec(num_classes=2), make_spec()) == []


@pytest.mark.parametrize(
    "wrong", [{"weight": 0}, {"object_weight": -1}, {"temperature_object": 0}, {"adaptor": "conv"}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        DeFeatConfig.model_validate({"type": "defeat", **wrong})
