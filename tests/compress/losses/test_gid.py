"""GID's terms on instances that are known beforehand, by hand."""

import math
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from compress.detector import Dense, Outputs
from compress.detectors.parts.assignment import overlap_mask
from compress.losses import LossConfig
from compress.losses.gid import GidConfig, relation_loss, response_loss
from compress.losses.parts.distances import relative_distances
from compress.losses.parts.patches import Space, instance_error, pool_instances, pooling_levels
from tests.compress.losses.scene import (
    LARGE_PX,
    make_batch,
    make_outputs,
    make_spec,
    reach_every_level,
)


def vectors(*values, requires_grad=False):
    """One number per instance, as patches (G, 1, 1, 1)."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None].requires_grad_(
        requires_grad
    )


@pytest.mark.parametrize(
    ("width", "height", "stride"),
    # sqrt(w h) / 224 of 1/2 is stride 8, of 1 stride 16, of 2 stride 32; others are clamped.
    [
        (10, 10, 8),
        (111, 112, 8),
        (112, 112, 8),
        (223, 223, 8),
        (224, 224, 16),
        (56, 896, 16),
        (447, 447, 16),
        (448, 448, 32),
        (3000, 3000, 32),
    ],
)
def test_the_map_to_pool_from_follows_the_box(width, height, stride):
    box = torch.tensor([[10.0, 20.0, 10.0 + width, 20.0 + height]])
    assert [8, 16, 32][int(pooling_levels(box, (8, 16, 32)))] == stride


def test_a_missing_stride_is_served_by_the_next_finer_one():
    box = torch.tensor([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 448.0, 448.0]])
    assert pooling_levels(box, (8, 32)).tolist() == [0, 1]
    assert pooling_levels(box, (8,)).tolist() == [0, 0]


def test_patches_come_from_the_right_map_and_picture_and_in_order():
    # Every map is a constant: 10 * picture + level.
    maps = [
        torch.tensor([0.0, 10.0])[:, None, None, None].expand(2, 3, 512 // s, 512 // s) + level
        for level, s in enumerate((8, 16, 32))
    ]
    small, middle, large = ([0.0, 0.0, s, s] for s in (100.0, 300.0, 500.0))
    boxes = [torch.tensor([large, small]), torch.tensor([middle, large, small])]
    pooled = pool_instances(maps, (8, 16, 32), boxes, 2)
    assert pooled.shape == (5, 3, 2, 2)
    assert pooled[:, 0, 0, 0].tolist() == [2, 0, 11, 12, 10]


def test_pooling_is_aligned_to_half_pixels():
    # Columns hold their index; a box of exactly columns 1 and 2 is pooled to their centres' mean
    # values: with two samples per cell at 1.25, 1.75, 2.25, 2.75 less the half pixel.
    ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    pooled = pool_instances([ramp], (8,), [torch.tensor([[8.0, 8.0, 24.0, 24.0]])], 2)
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[1.0, 2.0], [1.0, 2.0]]))


def test_the_feature_term_sums_channels_and_averages_cells_and_instances():
    student, teacher = torch.full((4, 2, 3, 3), 1.0), torch.full((4, 2, 3, 3), 3.0)
    assert float(instance_error([Space(student, teacher, [4])])) == 2 * 4.0


class TestRelation:
    def test_distances_are_compared_relative_to_their_mean(self):
        # Teacher 0, 1, 3: distances 1, 3, 2 of mean 2; student 0, 1, 2: 1, 2, 1 of mean 4/3.
        # Relative .5, 1.5, 1 against .75, 1.5, .75; differences .25, 0, .25; half squares / 3.
        found = relation_loss([Space(vectors(0, 1, 2), vectors(0, 1, 3), [3])], beta=1.0)
        assert float(found) == pytest.approx(2 * (0.5 * 0.25**2) / 3)

    def test_beyond_beta_the_comparison_is_linear(self):
        found = relation_loss([Space(vectors(0, 1, 2), vectors(0, 1, 3), [3])], beta=0.1)
        assert float(found) == pytest.approx(2 * (0.25 - 0.05) / 3)

    def test_the_loss_does_not_depend_on_scale(self):
        found = relation_loss([Space(vectors(0, 10, 30), vectors(0, 1, 3), [3])], beta=1.0)
        assert float(found) == pytest.approx(0, abs=1e-9)

    def test_coincident_instances_keep_it_finite(self):
        # All student distances are the floor, so relative 1, 1, 1 against .5, 1.5, 1.
        student = vectors(5, 5, 5, requires_grad=True)
        found = relation_loss([Space(student, vectors(0, 1, 3), [3])], beta=1.0)
        found.backward()
        assert float(found.detach()) == pytest.approx(2 * (0.5 * 0.5**2) / 3)
        assert student.grad.isfinite().all()

    def test_coincident_pairs_count_in_the_mean_as_the_floor(self):
        # 0, 0, 3: distances ~0, 3, 3, so mean 2; leaving the pair out would make it 3.
        relative = relative_distances(torch.tensor([[0.0], [0.0], [3.0]]))
        expected = torch.tensor([[0, 5e-7, 1.5], [5e-7, 0, 1.5], [1.5, 1.5, 0]])
        torch.testing.assert_close(relative, expected)

    def test_close_and_long_vectors_keep_their_distances(self):
        far = 1000 + torch.zeros(3, 4096)
        far[1, 0], far[2, 0] = 1001, 1003
        torch.testing.assert_close(
            relative_distances(far), relative_distances(torch.tensor([[0.0], [1.0], [3.0]]))
        )

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_fewer_than_three_are_no_relation(self, count):
        student = torch.ones(count, 1, 1, 1, requires_grad=True)
        found = relation_loss([Space(student, torch.ones(count, 1, 1, 1), [count])], beta=1.0)
        assert float(found.detach()) == 0
        assert found.requires_grad

    def test_per_picture_it_is_a_mean_over_pictures_of_three_and_more(self):
        student = vectors(0, 1, 2, 7, 9, 0, 1, 3)
        teacher = vectors(0, 1, 3, 7, 8, 0, 1, 3)
        found = relation_loss([Space(student, teacher, [3, 2, 3])], beta=1.0)
        assert float(found) == pytest.approx((2 * (0.5 * 0.25**2) / 3 + 0) / 2)


class TestResponse:
    POSITIVE = torch.tensor([[True, False, True]])

    def dense(self, logit, delta):
        return Dense(
            torch.full((1, 3, 2), logit),
            torch.full((1, 3, 4), delta),
            torch.zeros(1, 3, 4),
            lambda _: self.POSITIVE,
        )

    def terms(self, positive, beta=0.0):
        # Student logits of 0 cost log 2 per class whatever the target; deltas differ by 0.5.
        student, teacher = self.dense(0.0, 0.25), self.dense(1.3, 0.75)
        return [float(term) for term in response_loss(student, teacher, positive, beta=beta)]

    def test_both_are_sums_over_classes_or_edges_averaged_over_positives(self):
        assert self.terms(self.POSITIVE) == pytest.approx([2 * math.log(2), 4 * 0.5])

    def test_the_box_term_may_be_rounded_at_zero(self):
        assert self.terms(self.POSITIVE, beta=0.1)[1] == pytest.approx(4 * (0.5 - 0.05))
        assert self.terms(self.POSITIVE, beta=2.0)[1] == pytest.approx(4 * 0.5 * 0.25 / 2)

    def test_without_positives_both_are_zero(self):
        assert self.terms(torch.zeros_like(self.POSITIVE)) == [0, 0]

    def test_the_target_is_the_teachers_probability(self):
        student, teacher = self.dense(1.0, 0.0), self.dense(-1.0, 0.0)
        found, _ = response_loss(student, teacher, self.POSITIVE, beta=0.0)
        p, target = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))
        expected = -2 * (target * math.log(p) + (1 - target) * math.log(1 - p))
        assert float(found) == pytest.approx(expected)


def terms_of(config, instances_possible=True):
    spec = make_spec()
    student, teacher = make_outputs(spec, 2, 0), make_outputs(spec, 2, 1)
    changes = {} if instances_possible else {"min_size_px": 1000.0}
    loss = GidConfig.model_validate({"type": "gid"} | config | changes).build(spec, spec)
    return student, loss(student, teacher, make_batch([[], []]))


def test_without_an_instance_all_terms_are_zero_and_attached():
    student, terms = terms_of({}, instances_possible=False)
    torch.stack(list(terms.values())).sum().backward()
    assert [float(term.detach()) for term in terms.values()] == [0, 0, 0, 0]
    assert all(level.grad is not None and not level.grad.any() for level in student.features)
    assert not student.dense.class_logits.grad.any()


def test_an_instance_that_touches_no_anchor_selects_none():
    # One instance, (0, 0, 20, 20); the only anchors lie elsewhere.
    spec = make_spec(channels=(1,), strides=(8,), num_classes=1)
    anchors = torch.tensor([[40.0, 40.0, 50.0, 50.0], [50.0, 50.0, 60.0, 60.0]])
    assign = partial(overlap_mask, anchors, threshold=0.5)
    boxes = torch.tensor([[[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 1.0, 1.0]]])

    def outputs(logit, feature):
        dense = Dense(torch.full((1, 2, 1), logit), torch.full((1, 2, 4), logit), boxes, assign)
        return Outputs((torch.full((1, 1, 8, 8), feature),), dense=dense)

    loss = GidConfig(type="gid", feature_weight=1.0).build(spec, spec)
    terms = loss(outputs(-2.0, 1.0), outputs(2.0, 3.0), make_batch([[]]))
    assert {name: float(term) for name, term in terms.items()} == {
        "feature": 4.0,
        "relation": 0.0,
        "response_class": 0.0,
        "response_box": 0.0,
    }


@pytest.mark.parametrize("count", [1, 2])
def test_with_fewer_than_three_instances_only_the_relation_is_zero(count):
    # `count` per picture, and relations within a picture.
    _, terms = terms_of({"instances": count, "relation_scope": "image"})
    assert float(terms.pop("relation").detach()) == 0
    assert all(float(term.detach()) > 0 for term in terms.values())


def test_ground_truth_does_not_change_the_loss():
    spec = make_spec()
    student, teacher = make_outputs(spec, 1, 0), make_outputs(spec, 1, 1)
    loss = GidConfig(type="gid").build(spec, spec)
    without = loss(student, teacher, make_batch([[]]))
    with_boxes = loss(student, teacher, make_batch([[[0, 0, 30, 30]]]))
    assert all(torch.equal(with_boxes[name], term) for name, term in without.items())


def test_each_weight_acts_on_its_own_term():
    _, plain = terms_of({})
    defaults = {"feature": 5e-4, "relation": 40, "response_class": 0.1, "response_box": 1.0}
    settings = ("feature_weight", "relation_weight", "class_weight", "box_weight")
    for (name, default), setting in zip(defaults.items(), settings, strict=True):
        _, changed = terms_of({setting: 2 * default})
        for other, term in changed.items():
            torch.testing.assert_close(term, (2 if other == name else 1) * plain[other])
    _, changed = terms_of({"response_weight": 3})
    for name in plain:
        factor = 3 if name.startswith("response") else 1
        torch.testing.assert_close(changed[name], factor * plain[name])


def test_one_proposal_class_of_a_two_stage_detector_works_the_same():
    spec = make_spec(num_classes=1)
    student, teacher = make_outputs(spec, 1, 0), make_outputs(spec, 1, 1)
    terms = GidConfig(type="gid").build(spec, spec)(student, teacher, make_batch([[]]))
    assert all(float(term.detach()) > 0 for term in terms.values())


def test_the_adapter_is_there_only_for_unequal_channels_or_on_request():
    narrow, wide = make_spec(channels=(2, 2, 2)), make_spec()
    assert not list(GidConfig(type="gid").build(wide, wide).parameters())
    adapter = GidConfig(type="gid").build(narrow, wide).adapter
    assert adapter.weight.shape == (4, 2, 3, 3)
    assert list(GidConfig(type="gid", adapter=True).build(wide, wide).parameters())


def test_levels_that_only_one_side_has_are_ignored():
    spec = make_spec()
    teacher = make_spec(channels=(4, 4, 4, 4), strides=(4, 8, 16, 32))
    config = GidConfig(type="gid")
    outputs, taught = make_outputs(spec, 1, 0), make_outputs(spec, 1, 1)
    expected = config.build(spec, spec)(outputs, taught, make_batch([[]]))
    finer = torch.full((1, 4, 16, 16), torch.nan)
    more = Outputs((finer, *taught.features), dense=taught.dense)
    found = config.build(spec, teacher)(outputs, more, make_batch([[]]))
    assert all(torch.equal(found[name], term) for name, term in expected.items())


class TestUnequalLevels:
    """Pyramids of 3, 5, 6 and of 4, 8, 6 channels: three instances on each level."""

    STUDENT, TEACHER = make_spec(channels=(3, 5, 6)), make_spec(channels=(4, 8, 6))

    def build(self, student=STUDENT, teacher=TEACHER, **more):
        config = GidConfig.model_validate({"type": "gid", "nms_iou": 1, **more})
        assert config.check(student, teacher) == []
        torch.manual_seed(0)
        return config.build(student, teacher)

    def outputs(self, student=STUDENT, teacher=TEACHER):
        return reach_every_level(
            make_outputs(student, 1, 0, LARGE_PX), make_outputs(teacher, 1, 1, LARGE_PX), each=3
        )

    @pytest.mark.parametrize(
        ("forced", "shapes"),
        [(None, [(4, 3), (8, 5), None]), (True, [(4, 3), (8, 5), (6, 6)])],
    )
    def test_every_level_has_an_adapter_where_its_channels_differ(self, forced, shapes):
        adapters = self.build(adapter=forced).adapter
        found = [tuple(p.shape[:2]) for one in adapters for p in one.parameters() if p.ndim == 4]
        assert found == [shape for shape in shapes if shape]

    @pytest.mark.parametrize("term", ["feature", "relation"])
    @pytest.mark.parametrize("scope", ["batch", "image"])
    def test_gradients_reach_every_adapter(self, term, scope):
        loss = self.build(relation_scope=scope)
        student, teacher = self.outputs()
        terms = loss(student, teacher, make_batch([[]], LARGE_PX))
        terms[term].backward()
        weights = [p for p in loss.parameters() if p.ndim == 4]
        assert len(weights) == 2
        assert all(weight.grad.any() for weight in weights)
        assert all(level.grad.any() for level in student.features)

    def test_equal_maps_leave_nothing_to_learn(self):
        student, teacher = self.outputs(self.TEACHER)
        student = replace(student, features=teacher.features)
        terms = self.build(self.TEACHER)(student, teacher, make_batch([[]], LARGE_PX))
        assert terms["feature"].item() == terms["relation"].item() == 0
        assert terms["response_class"].item() > 0

    def test_instances_of_all_levels_weigh_alike(self):
        # Errors of 1 in each of two channels and of 3 in each of six: sums 2 and 54, scaled to
        # the mean of four channels 4 and 36; the mean of the two instances.
        spaces = [
            Space(torch.zeros(1, channels, 3, 3), torch.full((1, channels, 3, 3), value), [1])
            for channels, value in ((2, 1.0), (6, 3.0))
        ]
        assert float(instance_error(spaces)) == (4 + 36) / 2
        assert float(instance_error(spaces, over_channels=True)) == (1 + 9) / 2

    def test_distances_are_those_within_a_level_relative_to_its_mean(self):
        # The first space as in TestRelation, the second of two channels and ten times as wide
        # with equal relative distances: the mean over both.
        one = Space(vectors(0, 1, 2), vectors(0, 1, 3), [3])
        wide = vectors(0, 10, 20).expand(-1, 2, -1, -1)
        two = Space(wide, 7 * wide, [3])
        expected = 2 * (0.5 * 0.25**2) / 3
        assert float(relation_loss([one], beta=1.0)) == pytest.approx(expected)
        assert float(relation_loss([one, two], beta=1.0)) == pytest.approx(expected / 2)

    def test_a_level_with_fewer_than_three_instances_has_no_pairs(self):
        one = Space(vectors(0, 1, 2), vectors(0, 1, 3), [3])
        few = Space(vectors(0, 1).expand(-1, 2, -1, -1), vectors(5, 1).expand(-1, 2, -1, -1), [2])
        found = relation_loss([one, few], beta=1.0)
        assert float(found) == pytest.approx(2 * (0.5 * 0.25**2) / 3)

    def test_a_teacher_of_equal_levels_keeps_one_space(self):
        # An instance of each level: no level has three, but all of them together have.
        even = make_spec()
        student, teacher = reach_every_level(
            make_outputs(self.STUDENT, 1, 0, LARGE_PX), make_outputs(even, 1, 1, LARGE_PX)
        )
        batch = make_batch([[]], LARGE_PX)
        terms = self.build(teacher=even, instances=3)(student, teacher, batch)
        assert terms["relation"].item() > 0


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"locations": "three anchors per cell"}, "'three anchors per cell' and the teacher"),
        ({}, {"num_classes": 2}, "2 classes and the teacher 3"),
        ({}, {"strides": (7, 9, 11)}, "none is shared"),
        ({"adapter": False}, {"channels": (2, 2, 2)}, r"adapter: false .* \[\(2, 4\)\]"),
        ({"adapter": False}, {"channels": (2, 3, 4)}, r"\[\(2, 4\), \(3, 4\), \(4, 4\)\]"),
    ],
)
def test_a_pair_that_cannot_work_is_refused_before_it_is_built(settings, changes, message):
    config = TypeAdapter(LossConfig).validate_python({"type": "gid", **settings})
    (problem,) = config.check(make_spec(**changes), make_spec())
    assert re.search(message, problem), problem


@pytest.mark.parametrize(
    "wrong", [{"weight": 0}, {"instances": 0}, {"nms_iou": 1.5}, {"score": "best"}, {"roi_size": 0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        GidConfig.model_validate({"type": "gid", **wrong})


def test_the_defaults_are_the_released_ones():
    config = GidConfig(type="gid")
    assert (config.instances, config.nms_iou, config.pre_nms, config.roi_size) == (
        10,
        0.3,
        3000,
        10,
    )
    assert (config.feature_weight, config.relation_weight) == (5e-4, 40)
    assert (config.class_weight, config.box_weight, config.response_weight) == (0.1, 1, 1)
