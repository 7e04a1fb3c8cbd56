"""LD's two regions, weights and divisors, by hand."""

import math
import re
from dataclasses import replace

import pytest
import torch

from compress.losses.ld import LdConfig, edge_term, valuable_region
from tests.compress.losses.scene import make_batch, make_outputs, make_spec

LN3 = math.log(3)
APART = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL of (3/4, 1/4) from (1/2, 1/2)
# a map of 2 x 2 cells of 8 px, each its own anchor
ANCHORS = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]])
BOXES = [[[4.0, 6.0, 40.0, 50.0]], [[30.0, 2.0, 62.0, 30.0]]]


def test_edges_are_summed_and_bins_averaged():
    student, teacher = torch.zeros(2, 8), torch.tensor([[LN3, 0.0] * 4] * 2)
    found = edge_term(student, teacher, torch.tensor([0.5, 2.0]), 1.0)
    assert found.item() == pytest.approx((0.5 + 2.0) * 4 * APART / 2)


class TestRegion:
    # The box covers the first anchor and half of the second: IoU 2/3, 1/4, 0, 0, of mean 0.2292 and
    # deviation 0.3146, so positives begin at 0.5437. DIoU: 2/3 - 4/208 = 0.647, which is above, and
    # 1/4 - 36/320 = 0.1375, which is 0.2529 of the threshold; the others' are negative.
    BOX = (0.0, 0, 12, 8)

    def test_anchors_near_but_below_the_threshold_are_weighted_by_their_iou(self):
        found = valuable_region(ANCHORS, (4,), [torch.tensor([self.BOX])], 0.25)
        assert found.tolist() == [[0, 0.25, 0, 0]]

    def test_anchors_too_far_for_the_lower_bound_are_outside(self):
        assert not valuable_region(ANCHORS, (4,), [torch.tensor([self.BOX])], 0.2535).any()

    def test_of_several_boxes_the_best_overlap_counts_and_pictures_stay_apart(self):
        # 0.1 px wider: IoU of the second anchor 32.8 / 128
        both = torch.tensor([(0.0, 0, 12.1, 8), self.BOX])
        found = valuable_region(ANCHORS, (4,), [both[1:], both[:0], both], 0.25)
        assert found[:, 1].tolist() == pytest.approx([0.25, 0, 32.8 / 128])

    def test_without_boxes_it_is_empty(self):
        assert not valuable_region(ANCHORS, (4,), [torch.zeros(0, 4)] * 2, 0.25).any()


class TestTerms:
    SPEC = make_spec()

    def run(self, student, **settings):
        teacher = make_outputs(self.SPEC, 2, seed=2)
        loss = LdConfig(type="ld", **settings).build(self.SPEC, self.SPEC)
        return loss(student, teacher, make_batch(BOXES))

    def test_normalising_divides_each_region_by_its_weights(self):
        student = make_outputs(self.SPEC, 2, seed=1)
        divided, plain = (self.run(student, normalize=how) for how in ("sum", "none"))
        boxes = [torch.tensor(own) for own in BOXES]
        positive = student.dense.match(make_batch(BOXES).targets) >= 0
        main = student.dense.class_logits.sigmoid().amax(2)[positive].sum()
        counts = student.dense.level_counts
        region = valuable_region(torch.cat(student.anchors), counts, boxes, 0.25).sum()
        assert main > 1
        assert region > 1
        assert (plain["main"] / divided["main"]).item() == pytest.approx(main.item(), rel=1e-5)
        assert (plain["region"] / divided["region"]).item() == pytest.approx(
            region.item(), rel=1e-5
        )
        assert plain["class"].item() == divided["class"].item()

    def test_divisors_and_weights_multiply_a_region(self):
        student = make_outputs(self.SPEC, 2, seed=1)
        usual = self.run(student)
        other = self.run(student, main_divisor=1.0, region_divisor=4.0, region_weight=0.5)
        assert other["main"].item() == pytest.approx(4 * usual["main"].item())
        assert other["region"].item() == pytest.approx(8 * usual["region"].item())

    def test_the_scores_that_weigh_the_edges_get_no_gradient(self):
        student = make_outputs(self.SPEC, 2, seed=1)
        self.run(student, region_weight=0, class_weight=0)["main"].backward()
        assert student.dense.class_logits.grad is None

    def test_the_class_term_is_a_mean_over_classes_and_positives(self):
        student, teacher = (make_outputs(self.SPEC, 1, seed=seed) for seed in (1, 2))
        # logits (0, 0, 0) and (2 ln 2, 0, 0): at temperature 2 thirds, and 1/2, 1/4, 1/4
        for side, peak in ((student, 0.0), (teacher, 2 * math.log(2))):
            side.dense.class_logits.data.zero_()[..., 0] = peak
        loss = LdConfig(type="ld").build(self.SPEC, self.SPEC)
        found = loss(student, teacher, make_batch([BOXES[0]]))["class"]
        apart = 0.5 * math.log(3 / 2) + 2 * 0.25 * math.log(3 / 4)
        assert found.item() == pytest.approx(10 * 4 * apart / 3, rel=1e-5)

    def test_anchors_are_asked_for_only_for_the_region(self):
        assert LdConfig(type="ld").needs(self.SPEC, self.SPEC) == {"dense", "dfl", "anchors"}
        without = LdConfig(type="ld", region_weight=0)
        assert without.needs(self.SPEC, self.SPEC) == {"dense", "dfl"}


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"dfl_bins": 9}, "9 bins and the teacher 5"),
        ({}, {"locations": "elsewhere"}, "'elsewhere'"),
        ({}, {"num_classes": 2}, "2 classes and the teacher 3"),
        ({"main_weight": 0, "region_weight": 0, "class_weight": 0}, {}, "all weights are 0"),
    ],
)
def test_a_pair_that_cannot_work_is_refused(settings, changes, message):
    student = replace(make_spec(), **changes)
    (problem,) = LdConfig(type="ld", **settings).check(student, make_spec())
    assert re.search(message, problem), problem


def test_one_class_needs_the_class_term_off():
    spec = make_spec(num_classes=1)
    (problem,) = LdConfig(type="ld").check(spec, spec)
    assert problem.endswith("set class_weight: 0")
    assert LdConfig(type="ld", class_weight=0).check(spec, make_spec(num_classes=1)) == []
    assert LdConfig(type="ld", class_weight=0).check(make_spec(num_classes=2), make_spec()) == []
