"""TADF by hand: bells of known boxes, maps of constants, RoIs of few rows."""

import math
import re

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from compress.detector import Outputs, Rois, deltas_of
from compress.losses import LossConfig
from compress.losses.tadf import TadfConfig, gaussian_masks, nearer_distance
from tests.compress.losses.scene import (
    make_batch,
    make_outputs,
    make_spec,
)


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def drawn(*rows, spread=0.5):
    (mask,) = gaussian_masks([boxes(*rows)], (8,), [(4, 4)], spread=spread)
    return mask[0]


def test_a_bell_falls_from_the_middle_of_its_box_by_half_its_side():
    # Columns 0..3 and row 1: the middle is 2 cells from the left, deviation 4 / 2 = 2. Centres are
    # 1.5 and 0.5 away; down the one row the centre is the middle.
    mask = drawn([0, 8, 32, 16])
    near, far = math.exp(-0.5 * 0.25**2), math.exp(-0.5 * 0.75**2)
    torch.testing.assert_close(mask[1], torch.tensor([far, near, near, far]))
    assert not mask[[0, 2, 3]].any()


def test_width_and_height_have_their_own_deviation():
    # 2 x 4 cells in columns 1..2: centres are half a cell from the middle across, deviation 1.
    mask = drawn([8, 0, 24, 32])
    across = math.exp(-0.5 * 0.5**2)
    down = [math.exp(-0.5 * (away / 2) ** 2) for away in (1.5, 0.5, 0.5, 1.5)]
    expected = torch.tensor([[0, across * d, across * d, 0] for d in down])
    torch.testing.assert_close(mask, expected)


def test_the_spread_is_a_setting():
    mask = drawn([0, 8, 32, 16], spread=0.25)
    assert float(mask[1, 0]) == pytest.approx(math.exp(-0.5 * 1.5**2))


def test_a_box_thinner_than_a_cell_has_a_bell_of_one_cell():
    # 2 px wide at 9..11: middle 1.25 cells, deviation 0.5 of one cell; its cell's centre is 1.5.
    # 8 px high: middle 1.5, where the centre of row 1 is.
    mask = drawn([9, 8, 11, 16])
    assert float(mask[1, 1]) == pytest.approx(math.exp(-0.5 * (0.25 / 0.5) ** 2))
    assert int((mask > 0).sum()) == 1


def test_overlapping_bells_keep_the_larger():
    mask = drawn([0, 0, 32, 8], [0, 0, 8, 8])
    assert float(mask[0, 0]) == pytest.approx(1.0)
    assert float(mask[0, 1]) == pytest.approx(math.exp(-0.5 * 0.25**2))


def test_a_bell_is_cut_by_the_border():
    # The box goes on to 64 px: middle 4 cells, deviation 4.
    mask = drawn([0, 0, 64, 8])
    assert float(mask[0, 3]) == pytest.approx(math.exp(-0.5 * (0.5 / 4) ** 2))


def test_a_gaussian_is_drawn_only_on_the_level_of_its_box():
    # 111 px is the first of level 1.
    fine, coarse = gaussian_masks([boxes([0, 0, 111, 111])], (8, 16), [(16, 16), (8, 8)], spread=1)
    assert not fine.any()
    assert int((coarse > 0).sum()) == 6 * 6


def test_pictures_without_boxes_have_no_bell():
    (mask,) = gaussian_masks([boxes(), boxes([0, 0, 8, 8])], (8,), [(2, 2)], spread=0.5)
    assert not mask[0].any()
    assert float(mask[1, 0, 0]) == 1.0
    (mask,) = gaussian_masks([boxes(), boxes()], (8,), [(2, 2)], spread=0.5)
    assert mask.shape == (2, 2, 2)


def build(spec, bias=0.0, **settings):
    config = TadfConfig.model_validate({"type": "tadf", **settings})
    assert config.check(spec, spec) == []
    loss = config.build(spec, spec)
    with torch.no_grad():
        for name, weight in loss.named_parameters():
            weight.fill_(bias if name.endswith("bias") else 0.0)
    return loss


def flat(levels=1, **more):
    maps = tuple(torch.zeros(1, 2, 4 // 2**level, 4 // 2**level) for level in range(levels))
    return Outputs(maps, **more)


def flat_spec(levels=1, **changes):
    strides = tuple(8 * 2**level for level in range(levels))
    return make_spec(channels=(2,) * levels, strides=strides, **changes)


def test_the_error_is_half_a_mean_weighted_by_the_bells():
    spec = flat_spec(provides=frozenset({"features"}))
    loss = build(spec, bias=3.0)
    teacher = torch.zeros(1, 2, 4, 4)
    teacher[..., 1, 0] = 3.0  # no error at the far end of the box
    batch = make_batch([[[0.0, 8.0, 32.0, 16.0]]], size_px=32)
    (term,) = loss(flat(), Outputs((teacher,)), batch).values()
    near, far = math.exp(-0.5 * 0.25**2), math.exp(-0.5 * 0.75**2)
    expected = 9 / 2 * (2 * near + far) / (2 * near + 2 * far)
    assert float(term.detach()) == pytest.approx(expected)


def test_a_level_without_boxes_counts_and_channels_may_be_left_out():
    spec, batch = flat_spec(levels=2, provides=frozenset({"features"})), [[[0.0, 0.0, 32.0, 32.0]]]
    found = [
        float(
            build(spec, bias=3.0, **settings)(
                flat(levels=2), flat(levels=2), make_batch(batch, size_px=32)
            )["feature"].detach()
        )
        for settings in ({}, {"average": "cells"}, {"feature_weight": 4, "weight": 2})
    ]
    assert found == pytest.approx([4.5 / 2, 9 / 2, 8 * 4.5 / 2])


class TestProposals:
    # Two classes. Student uniform over three columns; teacher 2 : 1 : 1.
    DIVERGENCE = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)

    def terms(self, labels, target=0.0, **settings):
        """Deltas of class 0: student 1, teacher 1.5; of class 1: student 2, teacher 5."""
        spec = flat_spec(num_classes=2)
        rows = len(labels)
        logits = [torch.zeros(rows, 3), torch.tensor([[math.log(2.0), 0, 0]]).repeat(rows, 1)]
        deltas = [
            torch.tensor([[[a] * 4, [b] * 4]]).repeat(rows, 1, 1)
            for a, b in ((1.0, 2.0), (1.5, 5.0))
        ]
        outputs = [
            flat(
                rois=Rois(
                    (),
                    torch.tensor(labels, dtype=torch.int64),
                    own.requires_grad_(),
                    d,
                    torch.full((rows, 4), target),
                )
            )
            for own, d in zip(logits, deltas, strict=True)
        ]
        loss = build(spec, feature_weight=0, **settings)
        found = loss(*outputs, make_batch([[]], size_px=32))
        return {name: float(term.detach()) for name, term in found.items()}

    def test_both_are_means_over_the_proposals_of_objects(self):
        # Row 0 follows the teacher (0.5 away, the target 1), row 1 the target (2 away, not 3).
        found = self.terms([0, 1, 2, 2])
        assert found == pytest.approx({"roi_class": self.DIVERGENCE, "roi_box": (0.5 + 2.0) / 2})

    def test_each_has_its_weight(self):
        assert self.terms([0], class_weight=0, box_weight=3) == pytest.approx({"roi_box": 1.5})
        assert self.terms([0], class_weight=2, box_weight=0) == pytest.approx(
            {"roi_class": 2 * self.DIVERGENCE}
        )

    @pytest.mark.parametrize("labels", [[2, 2], []])
    def test_without_proposals_of_objects_both_are_zero(self, labels):
        assert self.terms(labels) == {"roi_class": 0.0, "roi_box": 0.0}

    def test_the_temperature_softens_both_sides(self):
        # At T = 2 the teacher's odds are sqrt(2) : 1 : 1.
        p, q = (w / (math.sqrt(2) + 2) for w in (math.sqrt(2), 1.0))
        warm = 4 * (p * math.log(3 * p) + 2 * q * math.log(3 * q))
        assert self.terms([0], temperature=2)["roi_class"] == pytest.approx(warm, rel=1e-4)


def test_each_delta_follows_the_nearer_of_teacher_and_target():
    student = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    teacher = torch.tensor([[1.0, -3.0, 2.0, 0.0]])
    target = torch.tensor([[4.0, 2.0, -2.0, 9.0]])
    torch.testing.assert_close(
        nearer_distance(student, teacher, target), torch.tensor([(1 + 2 + 2 + 0) / 4])
    )


def test_where_both_are_as_near_the_teacher_pulls():
    student = torch.zeros(1, 4, requires_grad=True)
    nearer_distance(student, torch.full((1, 4), -2.0), torch.full((1, 4), 2.0)).sum().backward()
    assert student.grad is not None
    assert student.grad.tolist() == [[0.25] * 4]


def test_deltas_are_those_of_the_rows_own_class():
    deltas = torch.arange(24.0).view(2, 3, 4)
    found = deltas_of(torch.tensor([1, 3]), deltas)  # the second row is background
    assert found[0].tolist() == [4, 5, 6, 7]
    assert found.shape == (2, 4)


def test_its_terms_fall_over_the_run_unless_told_otherwise():
    falling, level = TadfConfig(type="tadf"), TadfConfig(type="tadf", decay="none")
    assert [falling.factor_at(step, 4) for step in range(4)] == [1, 0.75, 0.5, 0.25]
    assert level.factor_at(3, 4) == 1


def test_a_half_whose_weight_is_zero_is_left_out():
    spec = make_spec()
    loss = TadfConfig(type="tadf", feature_weight=0).build(spec, spec)
    terms = loss(make_outputs(spec, 1, 0), make_outputs(spec, 1, 1), make_batch([[]]))
    assert set(terms) == {"roi_class", "roi_box"}
    assert not list(loss.parameters())


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"strides": (7, 9, 11)}, "none is shared"),
        ({}, {"num_classes": 2}, "2 classes and the teacher 3"),
        ({"feature_weight": 0, "class_weight": 0, "box_weight": 0}, {}, "all weights are 0"),
    ],
)
def test_a_pair_that_cannot_work_is_refused_before_it_is_built(settings, changes, message):
    config = TypeAdapter(LossConfig).validate_python({"type": "tadf", **settings})
    (problem,) = config.check(make_spec(**changes), make_spec())
    assert re.search(message, problem), problem


def test_unlike_class_lists_do_not_matter_without_proposals():
    config = TadfConfig(type="tadf", class_weight=0, box_weight=0)
    assert config.check(make_spec(num_classes=2), make_spec()) == []


@pytest.mark.parametrize("wrong", [{"spread": 0}, {"temperature": 0}, {"box_weight": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        TadfConfig.model_validate({"type": "tadf", **wrong})
