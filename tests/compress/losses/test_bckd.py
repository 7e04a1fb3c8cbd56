"""BCKD's two terms on a few locations, by hand."""

import math
import re

import pytest
import torch

from compress.detector import Dense, Outputs
from compress.losses.bckd import BckdConfig, box_term
from compress.losses.parts.responses import focal_cross_entropy, score_gap
from tests.compress.losses.scene import make_batch, make_spec

LN3 = math.log(3)  # the logit of 3/4
BATCH = make_batch([[[0, 0, 8, 8]]])


def outputs(logits, boxes, matched=None):
    """One picture: P rows of logits (K) and boxes."""
    return Outputs(
        features=(torch.zeros(1, 1, 1, 1),),
        dense=Dense(
            torch.tensor([logits], dtype=torch.float32, requires_grad=True),
            torch.zeros(1, len(boxes), 4),
            torch.tensor([boxes], dtype=torch.float32, requires_grad=True),
            assign=lambda _: torch.tensor([matched]) >= 0,
            match=lambda _: torch.tensor([matched]),
        ),
    )


def build(**settings):
    return BckdConfig(type="bckd", **settings).build(make_spec(), make_spec())


UNIT, ALONG = [0.0, 0, 1, 1], [3.0, 0, 4, 1]  # GIoU 0 - (4 - 2) / 4


def test_classes_are_weighted_by_the_score_gap_and_boxes_by_the_largest():
    # one class of two differs, 1/2 and 3/4: gap 1/4, cross entropy ln 2
    student = outputs([[0, 7]], [UNIT], [0])
    found = build()(student, outputs([[LN3, 7]], [ALONG]), BATCH)
    assert found["class"].item() == pytest.approx(0.25 * math.log(2))
    assert found["box"].item() == pytest.approx(4 * 0.25 * 1.5)


def test_the_gradient_passes_through_the_gap_in_the_class_term_alone():
    student = outputs([[0]], [UNIT], [0])
    found = build()(student, outputs([[LN3]], [ALONG]), BATCH)
    sum(found.values()).backward()
    # d |s - t| = -1/4 times ln 2, and the gap 1/4 times s - t = -1/4
    expected = -0.25 * math.log(2) - 0.25 * 0.25
    assert student.dense.class_logits.grad.item() == pytest.approx(expected)
    assert student.dense.boxes.grad.abs().sum() > 0


def test_negatives_count_ignored_locations_do_not_and_positives_divide():
    logits, taught = [[0]] * 5, [[LN3]] * 5
    student = outputs(logits, [UNIT] * 5, [0, 0, -1, -2, -2])
    found = build()(student, outputs(taught, [ALONG] * 5), BATCH)
    assert found["class"].item() == pytest.approx(3 / 2 * 0.25 * math.log(2))
    assert found["box"].item() == pytest.approx(3 / 2 * 4 * 0.25 * 1.5)


def test_a_batch_without_positives_divides_by_one():
    found = build()(
        outputs([[0]] * 2, [UNIT] * 2, [-1, -1]), outputs([[LN3]] * 2, [ALONG] * 2), BATCH
    )
    assert found["class"].item() == pytest.approx(2 * 0.25 * math.log(2))


@pytest.mark.parametrize(("beta", "factor"), [(0, 1), (0.5, 0.5), (1, 0.25), (2, 0.0625)])
def test_beta_is_the_power_of_the_gap(beta, factor):
    logits, scores = torch.zeros(1, 1), torch.full((1, 1), 0.75)
    found = focal_cross_entropy(logits, scores, score_gap(logits, scores), beta)
    assert found.item() == pytest.approx(factor * math.log(2))


@pytest.mark.parametrize("beta", [0, 0.5, 1, 2])
def test_equal_scores_give_a_finite_gradient(beta):
    logits = torch.zeros(1, 1, requires_grad=True)
    scores = torch.full((1, 1), 0.5)
    focal_cross_entropy(logits, scores, score_gap(logits, scores), beta).sum().backward()
    assert logits.grad.isfinite().all()


def test_boxes_without_an_area_keep_it_finite():
    student = torch.zeros(1, 4, requires_grad=True)
    found = box_term(student, torch.zeros(1, 4), torch.ones(1, 1), torch.ones(1))
    found.backward()
    assert found.item() == 1  # no overlap, and nothing between
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"locations": "elsewhere"}, "'elsewhere'"),
        ({}, {"num_classes": 2}, "2 classes and the teacher 3"),
        ({"class_weight": 0, "box_weight": 0}, {}, "all weights are 0"),
    ],
)
def test_a_pair_that_cannot_work_is_refused(settings, changes, message):
    (problem,) = BckdConfig(type="bckd", **settings).check(make_spec(**changes), make_spec())
    assert re.search(message, problem), problem
