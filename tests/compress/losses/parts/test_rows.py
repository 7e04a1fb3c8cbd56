"""KL, DKD and DIST by hand, and the rows that they compare."""

import math
import re
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter

from compress.detector import Dense, Knowledge, Outputs, Rois
from compress.losses import LossConfig
from compress.losses.dist import uncorrelated
from compress.losses.dkd import decoupled
from compress.losses.parts.rows import select_rows
from tests.compress.losses.scene import make_batch, make_spec

CONFIG = TypeAdapter(LossConfig)
LN3 = math.log(3)
# KL of (3/4, 1/4) from (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2)
APART = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
TWO_STAGE: frozenset[Knowledge] = frozenset({"features", "rois"})
ONE_STAGE: frozenset[Knowledge] = frozenset({"features", "dense"})


def config(kind, **settings):
    return CONFIG.validate_python({"type": kind, **settings})


def with_rois(logits, labels=None):
    rows, columns = len(logits), len(logits[0])
    return Outputs(
        features=(torch.zeros(1, 1, 1, 1),),
        rois=Rois(
            boxes=(torch.zeros(rows, 4),),
            labels=torch.tensor(labels or [0] * rows),
            class_logits=torch.tensor(logits, dtype=torch.float32, requires_grad=True),
            deltas=torch.zeros(rows, columns - 1, 4),
        ),
    )


def with_dense(logits, matched=None):
    """Logits (B, P, K); `matched` (B, P) is what the assigner says whatever the boxes."""
    scores = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    nothing = torch.zeros(*scores.shape[:2], 4)
    return Outputs(
        features=(torch.zeros(1, 1, 1, 1),),
        dense=Dense(
            scores,
            nothing,
            nothing,
            assign=lambda _: torch.tensor(matched) >= 0,
            match=lambda _: torch.tensor(matched),
        ),
    )


BATCH = make_batch(
    [[[0, 0, 8, 8], [8, 8, 16, 16]], [[0, 0, 8, 8]]],
    labels=[[2, 0], [1]],
)


class TestRows:
    def test_positive_locations_bring_the_labels_of_their_boxes(self):
        logits = torch.arange(12.0).reshape(2, 2, 3).tolist()
        # picture 0: its second box and an ignored place; picture 1: nothing and its own box
        own = with_dense(logits, [[1, -2], [-1, 2]])
        rows = select_rows(own, with_dense(logits), BATCH, None)
        assert rows.student[:, 0].tolist() == [0, 9]
        assert rows.labels.tolist() == [0, 1]

    def test_all_locations_are_compared_if_asked_for(self):
        logits = torch.zeros(2, 5, 3).tolist()
        rows = select_rows(with_dense(logits), with_dense(logits), BATCH, "all")
        assert rows.student.shape == (10, 3)
        assert rows.labels is None

    def test_background_proposals_are_left_out_if_asked_for(self):
        own, other = (with_rois([[0.0, 0], [1, 0], [2, 0]], [1, 0, 1]) for _ in range(2))
        assert len(select_rows(own, other, BATCH, None).student) == 3
        assert select_rows(own, other, BATCH, "positive").student[:, 0].tolist() == [1]

    def test_targets_of_proposals_are_named_by_the_student(self):
        own, other = with_rois([[0.0, 0]], [0]), with_rois([[0.0, 0]], [1])
        assert select_rows(own, other, BATCH, None).labels.tolist() == [0]

    @pytest.mark.parametrize("kind", ["kl", "dkd", "dist"])
    def test_proposals_are_compared_only_if_both_have_them(self, kind):
        two = make_spec(provides=TWO_STAGE | ONE_STAGE)
        one = make_spec(provides=ONE_STAGE)
        assert config(kind).needs(two, two) == {"rois"}
        assert config(kind).needs(two, one) == config(kind).needs(one, two) == {"dense"}

    @pytest.mark.parametrize("kind", ["kl", "dkd", "dist"])
    @pytest.mark.parametrize("without", ["rois", "locations"])
    def test_without_rows_the_loss_is_zero_attached_to_the_graph(self, kind, without):
        provides = TWO_STAGE if without == "rois" else ONE_STAGE
        spec = make_spec(provides=provides)
        loss = config(kind).build(spec, spec)
        if without == "rois":
            sides = [with_rois([[0.0] * 4]) for _ in range(2)]
            sides = [
                replace(
                    side,
                    rois=replace(
                        side.rois,
                        labels=side.rois.labels[:0],
                        class_logits=side.rois.class_logits[:0],
                    ),
                )
                for side in sides
            ]
        else:
            sides = [with_dense([[[0.0, 1, 2]]], [[-1]]) for _ in range(2)]
        for term in loss(*sides, make_batch([[]])).values():
            assert term.item() == 0
            assert term.requires_grad


@pytest.mark.parametrize(
    ("settings", "student", "teacher", "message"),
    [
        ({"type": "dkd", "rows": "all"}, {"provides": ONE_STAGE}, {}, "rows: all needs a target"),
        ({"type": "kl"}, {"provides": ONE_STAGE, "num_classes": 1}, {"num_classes": 1}, "one cl"),
        ({"type": "kl", "scores": "sigmoid"}, {}, {}, "box heads score by a softmax"),
        ({"type": "dist"}, {"num_classes": 2}, {}, "2 classes and the teacher 3"),
        ({"type": "kl"}, {"provides": ONE_STAGE, "locations": "elsewhere"}, {}, "'elsewhere'"),
        ({"type": "dkd", "target_weight": 0, "non_target_weight": 0}, {}, {}, "all weights are 0"),
        ({"type": "dist", "inter_weight": 0, "intra_weight": 0}, {}, {}, "all weights are 0"),
    ],
)
def test_a_pair_without_comparable_rows_is_refused(settings, student, teacher, message):
    found = CONFIG.validate_python(settings)
    (problem,) = found.check(make_spec(**student), make_spec(**teacher))
    assert re.search(message, problem), problem


class TestKl:
    def build(self, provides=TWO_STAGE, **settings):
        spec = make_spec(provides=provides)
        return config("kl", **settings).build(spec, spec)

    def test_it_is_summed_over_classes_and_averaged_over_rows(self):
        own, other = with_rois([[0, 0], [5, 7]]), with_rois([[LN3, 0], [5, 7]])
        assert self.build()(own, other, BATCH)["class"].item() == pytest.approx(APART / 2)

    def test_the_temperature_softens_and_its_square_multiplies(self):
        own, other = with_rois([[0, 0]]), with_rois([[2 * LN3, 0]])
        found = self.build(temperature=2.0, weight=3.0)(own, other, BATCH)["class"]
        assert found.item() == pytest.approx(3 * 4 * APART)

    def test_sigmoid_scores_compare_each_class_with_its_complement(self):
        own = with_dense([[[0, 0, 0]]], [[0]])
        other = with_dense([[[LN3, 0, -LN3]]])
        found = self.build(ONE_STAGE, scores="sigmoid")(own, other, BATCH)["class"]
        assert found.item() == pytest.approx(2 * APART)


class TestDkd:
    # The student knows nothing: thirds. The teacher says 1/2, 1/4, 1/4.
    STUDENT, TEACHER = torch.zeros(2, 3), torch.tensor([[math.log(2), 0.0, 0.0]] * 2)

    def test_target_and_others_by_hand(self):
        target, others = decoupled(self.STUDENT, self.TEACHER, torch.tensor([0, 1]), 1.0)
        # class 0: (1/2, 1/2) from (1/3, 2/3), and the others are equal on both sides
        # class 1: (1/4, 3/4) from (1/3, 2/3), and (2/3, 1/3) from (1/2, 1/2)
        expected = [
            0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4),
            0.25 * math.log(3 / 4) + 0.75 * math.log(9 / 8),
        ]
        assert target.tolist() == pytest.approx(expected, rel=1e-5)
        expected = [0, 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)]
        assert others.tolist() == pytest.approx(expected, abs=1e-7)

    def test_the_parts_add_up_to_the_plain_divergence(self):
        # KL = target + (1 - p_target of the teacher) * others (Zhao et al., Eq. 6)
        target, others = decoupled(self.STUDENT, self.TEACHER, torch.tensor([1, 1]), 1.0)
        whole = 0.5 * math.log(3 / 2) + 2 * 0.25 * math.log(3 / 4)
        assert (target[0] + 0.75 * others[0]).item() == pytest.approx(whole)

    def test_a_certain_prediction_keeps_it_finite(self):
        student = torch.tensor([[0.0, 400.0, 0.0]], requires_grad=True)
        target, others = decoupled(student, torch.tensor([[400.0, 0, 0]]), torch.tensor([0]), 1.0)
        (target + others).sum().backward()
        assert target.item() == pytest.approx(400)
        assert student.grad.isfinite().all()


class TestDist:
    def test_correlation_ignores_scale_and_offset(self):
        rows = torch.tensor([[1.0, 2, 3]])
        assert uncorrelated(rows, 5 * rows - 3).item() == pytest.approx(0, abs=1e-6)
        assert uncorrelated(rows, -rows).item() == pytest.approx(2)
        # (-1, 0, 1) with (-1, 2, -1): no correlation
        assert uncorrelated(rows, torch.tensor([[0.0, 3, 0]])).item() == pytest.approx(1)

    def test_a_constant_row_has_correlation_zero_and_no_gradient(self):
        rows = torch.full((1, 3), 0.25, requires_grad=True)
        found = uncorrelated(rows, torch.tensor([[1.0, 2, 3]]))
        found.backward()
        assert found.item() == 1
        assert rows.grad.isfinite().all()

    def test_rows_and_columns_are_two_terms(self):
        # softmax of (ln 3, 0) and (0, ln 3): 3/4, 1/4 and 1/4, 3/4; the teacher's rows swapped
        own, other = with_rois([[LN3, 0], [0, LN3]]), with_rois([[0, LN3], [LN3, 0]])
        spec = make_spec(provides=TWO_STAGE)
        terms = config("dist", intra_weight=3.0).build(spec, spec)(own, other, BATCH)
        assert terms["inter"].item() == pytest.approx(2)
        assert terms["intra"].item() == pytest.approx(3 * 2)
