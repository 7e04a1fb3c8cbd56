"""CrossKD by hand, and through the heads of the detectors that offer towers."""

import copy
import math
import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from compress.batch import Targets
from compress.detector import Dense, TowerChannels, unmatched
from compress.distillation.distiller import Distiller
from compress.losses.crosskd import CrossKdConfig, centerness_sum, restyle
from tests.compress.detectors.small import small_batch, small_detector, spread
from tests.compress.losses.scene import SmallTowers, cell_boxes, make_outputs, make_spec

DEPTH = 3
WITH_TOWERS = ("retinanet", "fcos", "gfl")
LN3 = math.log(3)


class TestRestyle:
    def test_the_map_gets_the_teachers_mean_and_deviation_by_channel(self):
        # channel 0: -1, 1 around 1 becomes -2, 2 around 12; channel 1: 3 times as wide, negative
        student = torch.tensor([[0.0, 2.0], [0.0, 2.0]]).view(1, 2, 1, 2)
        teacher = torch.tensor([[14.0, 10.0], [-3.0, 3.0]]).view(1, 2, 1, 2)
        found = restyle(student, teacher).flatten()
        torch.testing.assert_close(found, torch.tensor([10.0, 14, -3, 3]), rtol=1e-5, atol=1e-5)

    def test_statistics_are_those_of_the_whole_batch(self):
        student = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
        found = restyle(student, student * 5)
        torch.testing.assert_close(found, student * 5, rtol=1e-5, atol=1e-5)

    def test_a_constant_channel_becomes_the_teachers_mean_with_a_finite_gradient(self):
        student = torch.full((1, 1, 2, 2), 3.0, requires_grad=True)
        found = restyle(student, torch.arange(4.0).view(1, 1, 2, 2))
        found.square().sum().backward()
        assert found.flatten().tolist() == [1.5] * 4
        assert student.grad.isfinite().all()

    def test_a_map_of_one_cell_becomes_the_teachers(self):
        student = torch.full((1, 2, 1, 1), 3.0, requires_grad=True)
        found = restyle(student, torch.tensor([5.0, 7.0]).view(1, 2, 1, 1))
        assert found.requires_grad
        assert found.flatten().tolist() == [5, 7]


def test_centreness_targets_of_positives_are_summed():
    # 4 from the left, 12 from the right, in the middle of the height: sqrt(1/3); and the centre
    points = torch.tensor([[4.0, 4.0], [8.0, 4.0], [50.0, 50.0]])
    blank = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    target = Targets(torch.tensor([[0.0, 0, 16, 8]]), torch.tensor([0]))
    matched = torch.tensor([[-1, -1, -1], [0, 0, -1]])
    found = centerness_sum(points, matched, (blank, target))
    assert found.item() == pytest.approx(1 + math.sqrt(1 / 3))
    assert centerness_sum(points, matched.clamp(max=-1), (blank, blank)).item() == 0


class TestCompare:
    """Two locations of one class, of which the second is ignored; the teacher says 3/4."""

    def compare(self, box, **settings):
        spec = make_spec()
        loss = CrossKdConfig(type="crosskd", box=box, **settings).build(spec, spec)
        sides = []
        for logit, corner, bins in ((0.0, 1.0, [0.0, 0.0]), (LN3, 2.0, [LN3, 0.0])):
            boxes = torch.tensor([[[0.0, 0, 1, corner]] * 2])
            dense = Dense(
                torch.full((1, 2, 1), logit),
                torch.zeros(1, 2, 4),
                boxes,
                unmatched,
                torch.tensor([[bins * 4] * 2]),
                unmatched,
            )
            sides.append(dense)
        return loss.compare(sides[0], sides[1], torch.tensor([[1.0, 0.0]]), torch.tensor(5))

    def test_the_class_term_is_divided_by_the_count(self):
        found = self.compare("giou")["class"]
        assert found.item() == pytest.approx(0.25 * math.log(2) / 5)

    def test_distributions_are_averaged_over_edges_and_divided_by_their_weights(self):
        # the one weight, 3/4, cancels
        apart = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        assert self.compare("dfl")["box"].item() == pytest.approx(4 * apart)

    def test_boxes_weigh_the_teachers_score_and_are_divided_by_the_count(self):
        # one box is half of the other: IoU and GIoU 1/2
        assert self.compare("giou")["box"].item() == pytest.approx(0.75 * 0.5 / 5)
        assert self.compare("iou", box_weight=2.0)["box"].item() == pytest.approx(
            2 * 0.75 * math.log(2) / 5
        )


@pytest.mark.parametrize(
    ("family", "index", "weights", "box", "divisor"),
    [
        ("gfl", 2, (1.0, 4.0), "dfl", "positives"),
        ("retinanet", 2, (1.0, 1.0), "giou", "positives"),
        ("fcos", 1, (0.4, 0.75), "iou", "centerness"),
    ],
)
def test_each_family_has_the_authors_values(family, index, weights, box, divisor):
    spec = small_detector(family, head_depth=DEPTH).spec
    config = CrossKdConfig(type="crosskd")
    assert config.check(spec, spec) == []
    assert config.entry(spec) == index
    assert config.weights(spec, spec) == weights
    assert config.box_term(spec, spec) == box
    assert config.divisor(spec) == divisor
    assert ("anchors" in config.needs(spec, spec)) == (family == "fcos")


@pytest.mark.parametrize("family", WITH_TOWERS)
@pytest.mark.parametrize("index", range(DEPTH))
def test_a_student_that_is_its_teacher_has_nothing_to_learn(family, index):
    teacher = spread(small_detector(family, head_depth=DEPTH, norm="frozen")).eval()
    batch, config = small_batch(), CrossKdConfig(type="crosskd", index=index, box="giou")
    loss = config.build(teacher.spec, teacher.spec)
    both = teacher(batch, loss.needs)
    crossed = loss.cross(both.towers, both.towers)
    scale = both.dense.class_logits.std()
    torch.testing.assert_close(
        crossed.class_logits, both.dense.class_logits, rtol=1e-2, atol=scale.item() / 100
    )


@pytest.mark.parametrize("family", WITH_TOWERS)
def test_a_step_teaches_the_student_and_leaves_the_teacher(family):
    student = spread(small_detector(family, head_depth=DEPTH))
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    objective = Distiller(student, teacher, [CrossKdConfig(type="crosskd")]).train()
    terms = objective(small_batch((2, 0)))
    kd = {name: term for name, term in terms.items() if name.startswith("crosskd/")}
    assert kd.keys() == {"crosskd/class", "crosskd/box"}
    assert all(term.isfinite() and term > 0 for term in kd.values())
    sum(kd.values()).backward()
    learnt = {name for name, p in student.named_parameters() if p.grad is not None}
    assert any("class_tower.layers.0" in name for name in learnt)
    assert not any("predictor" in name or "logits" in name for name in learnt)
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("family", WITH_TOWERS)
@pytest.mark.parametrize("widths", [(8, 16), (16, 8)])
def test_towers_of_another_width_are_aligned(family, widths):
    student, teacher = (small_detector(family, head_depth=DEPTH, head_width=w) for w in widths)
    objective = Distiller(spread(student), spread(teacher), [CrossKdConfig(type="crosskd")])
    terms = objective.train()(small_batch((2, 0)))
    (terms["crosskd/class"] + terms["crosskd/box"]).backward()
    aligners = list(objective.losses.parameters())
    assert {tuple(p.shape) for p in aligners} == {(widths[1], widths[0], 1, 1)}
    assert len(aligners) == 2 * len(student.spec.strides)
    assert all(p.grad.any() for p in aligners)


class TestTowersPerLevel:
    """Heads with towers of their own on every level, of other widths for classes and for boxes."""

    OWN = make_spec(channels=(3, 5, 6), tower_channels=TowerChannels((3, 4, 5), (2, 3, 6)))
    SPEC = make_spec(channels=(4, 8, 6), tower_channels=TowerChannels((4, 6, 5), (2, 4, 6)))

    def head(self, spec, activation):
        torch.manual_seed(0)
        head = SmallTowers(spec, cell_boxes(spec.strides, 64), activation)
        return head, head.towers(make_outputs(spec, 2, 1).features)

    @pytest.mark.parametrize("index", [0, 1])
    @pytest.mark.parametrize("activation", [functional.relu, functional.silu])
    def test_a_student_that_is_its_teacher_has_nothing_to_learn(self, index, activation):
        loss = CrossKdConfig(type="crosskd", index=index).build(self.SPEC, self.SPEC)
        assert not list(loss.parameters())
        head, towers = self.head(self.SPEC, activation)
        whole = head.resume(0, towers.class_maps[0], towers.box_maps[0])
        crossed = loss.cross(towers, towers)
        torch.testing.assert_close(crossed.class_logits, whole.class_logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(crossed.dfl_logits, whole.dfl_logits, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize(
        ("index", "in_class", "in_box"),
        [
            (0, [(4, 3), (8, 5)], [(4, 3), (8, 5)]),
            (1, [(4, 3), (6, 4)], [(4, 3)]),
        ],
    )
    def test_maps_are_aligned_where_the_widths_of_a_level_differ(self, index, in_class, in_box):
        config = CrossKdConfig(type="crosskd", index=index)
        assert config.check(self.OWN, self.SPEC) == []
        loss = config.build(self.OWN, self.SPEC)
        for aligners, expected in ((loss.align_class, in_class), (loss.align_box, in_box)):
            assert [tuple(p.shape[:2]) for p in aligners.parameters()] == expected
        (_, own), (_, other) = (self.head(s, functional.silu) for s in (self.OWN, self.SPEC))
        loss.cross(own, other).class_logits.sum().backward()
        assert all(p.grad.any() for p in loss.align_class.parameters())

    def test_one_number_describes_equal_towers(self):
        spec = make_spec(channels=(3, 5, 6), tower_channels=7)
        assert spec.tower_widths(0) == ((3, 5, 6), (3, 5, 6))
        assert spec.tower_widths(1) == ((7, 7, 7), (7, 7, 7))


def test_a_teacher_of_more_classes_answers_with_the_students():
    student, teacher = small_detector("gfl", classes=2), small_detector("gfl")
    teacher.spec = replace(teacher.spec, classes=("cat", "dog", "cow"))
    student.spec = replace(student.spec, classes=("cow", "cat"))
    objective = Distiller(student, teacher, [CrossKdConfig(type="crosskd")])
    batch = small_batch()
    batch = batch._replace(
        targets=tuple(Targets(t.boxes, t.labels.clamp(max=1)) for t in batch.targets)
    )
    _, taught = objective._outputs(batch)
    whole = teacher(batch, objective.wanted)
    again = taught.towers.resume(0, taught.towers.class_maps[0], taught.towers.box_maps[0])
    torch.testing.assert_close(again.class_logits, whole.dense.class_logits[..., [2, 0]])
    assert objective(batch)["crosskd/class"].isfinite()


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"tower_depth": 0}, r"\(student, teacher\) \(0, 2\) layers; give both a head_depth"),
        ({}, {"strides": (8, 16)}, "student has strides 8, 16 and the teacher 8, 16, 32"),
        ({"index": 2}, {}, "set index to at most 1"),
        ({}, {"locations": "elsewhere"}, "'elsewhere'"),
        ({}, {"num_classes": 2}, "2 classes and the teacher 3"),
        ({"box": "dfl"}, {"dfl_bins": 9}, "9 bins and the teacher 5"),
        ({"class_weight": 0, "box_weight": 0}, {}, "all weights are 0"),
    ],
)
def test_a_pair_that_cannot_work_is_refused(settings, changes, message):
    config = CrossKdConfig(type="crosskd", **settings)
    (problem,) = config.check(replace(make_spec(), **changes), make_spec())
    assert re.search(message, problem), problem


def test_unequal_bins_fall_back_to_boxes():
    student = replace(make_spec(), dfl_bins=9)
    config = CrossKdConfig(type="crosskd")
    assert config.box_term(student, make_spec()) == "giou"
    assert config.check(student, make_spec()) == []
