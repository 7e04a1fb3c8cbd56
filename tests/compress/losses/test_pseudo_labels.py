"""Soft pseudo-labels: which boxes teach, both terms by hand, and students of every family."""

import math
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional
from torchvision.ops import box_iou

from compress.batch import Batch, ScoredBoxes, Targets
from compress.detector import Dense, Knowledge, Outputs, Queries, Rois
from compress.losses.pseudo_labels import PseudoLabelsConfig, lessons_of
from tests.compress.losses.scene import centres_inside, in_order, make_spec

LN2 = math.log(2)
# Five locations in a row; the box of each is its own cell.
CELLS = torch.tensor([[8.0 * i, 0.0, 8.0 * i + 8, 8.0] for i in range(5)])
FLAT = torch.tensor([0.0, 0.0, 0.0, -4.0])  # takes the lower half of a cell: GIoU 1/2
DENSE: frozenset[Knowledge] = frozenset({"features", "dense"})
ONE_CLASS = make_spec(num_classes=1, provides=DENSE)
TWO_CLASSES = make_spec(num_classes=2, provides=DENSE)


def settings(**more):
    return PseudoLabelsConfig.model_validate({"type": "pseudo_labels", **more})


def scored(*found):
    """Boxes of a teacher: (cell, score) or (cell, score, label) each."""
    rows = [(*one, 0)[:3] for one in found]
    return ScoredBoxes(
        CELLS[[cell for cell, _, _ in rows]].reshape(-1, 4),
        torch.tensor([label for _, _, label in rows], dtype=torch.int64),
        torch.tensor([score for _, score, _ in rows], dtype=torch.float32),
    )


def batch_of(taught, targets=(), labeled=0):
    """Pictures of 40 x 8 pixels; those after `labeled` have no targets."""
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    targets = (*targets, *[nothing] * (len(taught) - len(targets)))
    count = len(taught)
    return Batch(
        torch.zeros(count, 3, 8, 40),
        targets,
        torch.tensor([[8, 40]] * count),
        tuple(range(count)),
        labeled,
        tuple(taught),
    )


def at_cells(logits, boxes=CELLS, background=None):
    """One picture with a location per cell: logits (5, K)."""
    leaf = torch.tensor([logits], dtype=torch.float32, requires_grad=True)
    return Outputs(
        (torch.zeros(1, 1, 1, 1),),
        dense=Dense(
            leaf,
            torch.zeros(1, len(CELLS), 4),
            boxes.clone()[None].requires_grad_(),
            centres_inside(CELLS),
            match=centres_inside(CELLS).match,
            background_logits=background,
        ),
    )


def found(config, outputs, batch, spec=ONE_CLASS):
    assert config.check(spec, spec) == []
    return config.build(spec, spec)(outputs, Outputs(()), batch)


SURE, LESS_SURE, UNSURE, NO = 0.75, 0.5, 0.25, 0.05
BANDS = batch_of([scored((0, SURE), (1, LESS_SURE), (2, UNSURE), (3, NO))])


def test_boxes_are_learned_ignored_or_background_by_their_score():
    terms = found(settings(), at_cells([[0]] * 5, CELLS + FLAT), BANDS)
    # the scores are 1/2, the cross entropies ln 2: |1/2 - 3/4|^2 and 0 at both learned boxes,
    # 1/4 at the background of the last two cells, nothing at the third
    assert terms["class"].item() == pytest.approx((0.25**2 + 2 * 0.25) * LN2 / 1.25)
    assert terms["box"].item() == pytest.approx(2 * 0.5)


def test_the_box_term_is_weighted_by_the_scores():
    exact_but_the_first = CELLS + FLAT * torch.tensor([1.0, 0, 0, 0, 0])[:, None]
    terms = found(settings(box_weight=1), at_cells([[0]] * 5, exact_but_the_first), BANDS)
    assert terms["box"].item() == pytest.approx(0.5 * SURE / (SURE + LESS_SURE))


def test_the_background_may_count_less_or_not_at_all():
    terms = found(settings(background_weight=0), at_cells([[0]] * 5), BANDS)
    assert terms["class"].item() == pytest.approx(0.25**2 * LN2 / 1.25)


def test_the_power_of_the_difference_is_a_setting():
    terms = found(settings(beta=1, background_weight=0), at_cells([[0]] * 5), BANDS)
    assert terms["class"].item() == pytest.approx(0.25 * LN2 / 1.25)


def test_the_overlap_of_the_own_box_lowers_the_class_target_and_takes_no_gradient():
    config = settings(quality="overlap", background_weight=0, box_weight=0)
    outputs = at_cells([[0]] * 5, CELLS + FLAT)
    terms = found(config, outputs, BANDS)
    first, second = 0.5 - SURE / 2, 0.5 - LESS_SURE / 2
    assert terms["class"].item() == pytest.approx((first**2 + second**2) * LN2 / 1.25)
    terms["class"].backward()
    assert outputs.dense.boxes.grad is None
    assert set(terms) == {"class"}


def test_nothing_is_left_to_learn_where_the_scores_are_those_of_the_teacher():
    logits = torch.logit(torch.tensor([SURE, LESS_SURE, 0.9])).tolist()
    outputs = at_cells([[one] for one in (*logits, -30.0, -30.0)])
    terms = found(settings(), outputs, BANDS)
    assert all(abs(term.item()) < 1e-9 for term in terms.values())
    terms["class"].backward()
    assert outputs.dense.class_logits.grad.abs().max() < 1e-6


LABELS = Targets(CELLS[:3], torch.tensor([0, 0, 1]))


def test_on_labelled_pictures_a_box_that_finds_an_object_gives_its_best_score():
    # the first object is found twice, the second by another class alone, the third hardly; the
    # fourth cell holds no object, and the last one nothing from `ignore` on
    said = scored((0, 0.5), (0, SURE), (1, 0.9, 1), (2, UNSURE, 1), (3, 0.9), (4, NO))
    lessons = lessons_of(batch_of([said], [LABELS], 1), learn=0.4, ignore=0.1, agree=0.5)
    assert torch.equal(lessons.learned.boxes, CELLS[:1])
    assert lessons.learned.labels.tolist() == [0]
    assert lessons.learned.scores.tolist() == [SURE]
    assert lessons.ignored.boxes[:, 0].tolist() == [8, 16, 8, 24]
    assert lessons.ignored.labels.tolist() == [0, 1, 1, 0]
    terms = found(
        settings(), at_cells([[0, 0]] * 5), batch_of([said], [LABELS], 1), spec=TWO_CLASSES
    )
    # both classes of the first and the last cell
    expected = (0.25**2 + 0.25 + 2 * 0.25) * LN2
    assert terms["class"].item() == pytest.approx(expected)


def test_on_labelled_pictures_the_box_to_learn_is_the_true_one():
    moved = scored((0, SURE))._replace(boxes=CELLS[:1] + torch.tensor([1.0, 0, 1, 0]))
    batch = batch_of([moved], [Targets(CELLS[:1], torch.tensor([0]))], 1)
    assert found(settings(), at_cells([[0]] * 5), batch)["box"].item() == pytest.approx(0)


def test_the_overlap_that_makes_a_find_is_a_setting():
    moved = scored((0, SURE))._replace(boxes=CELLS[:1] + torch.tensor([2.0, 0, 2, 0]))  # IoU 0.6
    batch = batch_of([moved], [Targets(CELLS[:1], torch.tensor([0]))], 1)
    bands = {"learn": 0.4, "ignore": 0.1}
    assert len(lessons_of(batch, agree=0.59, **bands).learned.scores) == 1
    strict = lessons_of(batch, agree=0.61, **bands)
    assert len(strict.learned.scores) == 0
    assert len(strict.ignored.labels) == 2, "the object and the box"


def test_a_softmax_learns_the_distribution_of_class_and_background():
    # three classes and background alike: log-odds of 1/4
    odds = -math.log(3)
    background = torch.full((1, 5), odds)
    batch = batch_of([scored((0, SURE))])
    outputs = at_cells([[odds] * 3] * 5, background=background)
    terms = found(settings(box_weight=0), outputs, batch, make_spec(provides=DENSE))
    # at the box: 3/4, 0, 0 and 1/4 against 1/4 each, half of 1/2 + 1/4 + 1/4 apart; elsewhere
    # 3/4 apart; every cross entropy is ln 4
    expected = (0.5**2 + 4 * 0.75**2) * 2 * LN2
    assert terms["class"].item() == pytest.approx(expected, rel=1e-5)


TWO_STAGES = make_spec(num_classes=2, provides=DENSE | {"rois"})


def proposals(boxes, **changes):
    """Even predictions of two classes, and deltas that move a box of class 1 to its left."""
    deltas = torch.zeros(len(boxes), 2, 4)
    deltas[:, 1] = torch.tensor([-8.0, 0, -8, 0])
    return Rois(
        (boxes,),
        torch.full((len(boxes),), 2),
        torch.zeros(len(boxes), 3).requires_grad_(),
        deltas.requires_grad_(),
        move=lambda moves, own: own + moves,
        **changes,
    )


def test_proposals_belong_to_the_box_that_they_overlap_by_half():
    half = torch.tensor([0.0, 0.0, 0.0, -3.9])  # IoU a bit over 1/2
    rois = proposals(torch.stack((CELLS[1], CELLS[1] + half, CELLS[2], CELLS[4])))
    batch = batch_of([scored((1, SURE, 1), (2, UNSURE))])
    outputs = replace(at_cells([[0]] * 5), rois=rois)
    terms = found(settings(), outputs, batch, TWO_STAGES)
    assert set(terms) == {"class", "box", "proposal_class", "proposal_box"}
    # (0, 3/4, 1/4) against thirds is 5/12 apart, background 2/3; the third proposal is ignored
    expected = (2 * (5 / 12) ** 2 + (2 / 3) ** 2) * math.log(3) / 1.5
    assert terms["class"].item() == pytest.approx(expected, rel=1e-5)
    # moved by the deltas of class 1 they lie beside the box; of the hull of 128 pixels nothing is
    # empty, and at the second 3.9 x 8
    assert terms["box"].item() == pytest.approx(2 * (1 + 3.9 * 8 / 128 / 2), rel=1e-5)
    # the proposal network knows objects alone: at the second location 3/4, the third ignored
    first = (0.25**2 + 3 * 0.25) * LN2
    assert terms["proposal_class"].item() == pytest.approx(first)


def test_proposals_of_other_pictures_are_no_finds():
    rois = proposals(CELLS[:1])
    rois = replace(
        rois,
        boxes=(CELLS[:1], CELLS[:1]),
        labels=torch.tensor([2, 2]),
        class_logits=torch.zeros(2, 3).requires_grad_(),
        deltas=torch.zeros(2, 2, 4).requires_grad_(),
    )
    batch = batch_of([scored((0, 1.0)), scored((1, 1.0))])
    one = at_cells([[0]] * 5)
    dense = replace(one.dense, class_logits=torch.zeros(2, 5, 1), boxes=CELLS.expand(2, 5, 4))
    terms = found(settings(), replace(one, dense=dense, rois=rois), batch, TWO_STAGES)
    # one proposal is the find of its picture, the other one background of its own
    assert terms["class"].item() == pytest.approx(2 * (2 / 3) ** 2 * math.log(3), rel=1e-5)
    assert terms["box"].item() == pytest.approx(0)


def never(*_):
    raise AssertionError("it ran")


def test_all_layers_of_a_decoder_learn_and_are_summed():
    logits = torch.zeros(2, 1, 3, 1).requires_grad_()
    boxes = CELLS[:3].expand(2, 1, 3, 4) + FLAT
    match = partial(in_order, (2, 1, 3))
    queries = Queries(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), logits, boxes, never, match)
    outputs = Outputs((torch.zeros(1, 1, 1, 1),), queries=queries)
    spec = make_spec(num_classes=1, provides=frozenset({"features", "queries"}))
    terms = found(settings(), outputs, batch_of([scored((0, SURE), (1, LESS_SURE))]), spec)
    each = (0.25**2 + 0 + 0.25) * LN2 / 1.25
    assert terms["class"].item() == pytest.approx(2 * each)
    assert terms["box"].item() == pytest.approx(2 * 2 * 0.5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"learn": 0.3, "ignore": 0.5}, "ignore 0.5 is above learn 0.3"),
        ({"learn": 0}, "greater than 0"),
        ({"learn": 1.5}, "less than or equal to 1"),
        ({"ignore": -0.1}, "greater than or equal to 0"),
        ({"agree": 0}, "greater than 0"),
        ({"box_weight": -1}, "greater than or equal to 0"),
        ({"quality": "iou"}, "'score' or 'overlap'"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, said):
    with pytest.raises(ValidationError, match=re.escape(said)):
        settings(**wrong)


def test_weights_of_zero_leave_nothing_to_learn():
    none = settings(class_weight=0, box_weight=0)
    assert none.check(ONE_CLASS, ONE_CLASS) == [
        "all weights are 0, so nothing is imitated; give one or drop the loss"
    ]


def test_a_batch_without_a_teachers_boxes_is_refused_with_what_to_do():
    batch = BANDS._replace(taught=())
    with pytest.raises(ValueError, match=r"all 1 pictures .* those of 0; give `taught`"):
        found(settings(), at_cells([[0]] * 5), batch)


PLACES = st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(0, 1))


@st.composite
def pictures(draw):
    """A picture's boxes of a teacher and, if it is labelled, of the labels; all are cells."""
    said = draw(st.lists(PLACES, max_size=6))
    true = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), max_size=4, unique=True))
    cells = [cell for cell, _ in true]
    targets = Targets(CELLS[cells].reshape(-1, 4), torch.tensor([k for _, k in true]).long())
    return scored(*((cell, score / 20, label) for cell, score, label in said)), targets


BAND = {"learn": 0.5, "ignore": 0.2, "agree": 0.5}


@trials(max_examples=30)
@given(known=st.lists(pictures(), max_size=3), unknown=st.lists(st.lists(PLACES), max_size=3))
def test_every_object_and_every_box_above_background_is_learned_or_ignored_once(known, unknown):
    others = [scored(*((cell, score / 20, label) for cell, score, label in one)) for one in unknown]
    taught = [said for said, _ in known] + others
    if not taught:
        return
    batch = batch_of(taught, [target for _, target in known], len(known))
    lessons = lessons_of(batch, **BAND)
    assert (lessons.learned.scores >= BAND["learn"]).all()
    for index, one in enumerate(taught):
        learned, ignored = lessons.of_learned == index, lessons.of_ignored == index
        sure, some = one.scores >= BAND["learn"], one.scores >= BAND["ignore"]
        if index >= len(known):
            assert int(learned.sum()) == int(sure.sum())
            assert int(ignored.sum()) == int((some & ~sure).sum())
            continue
        target = known[index][1]
        finds = box_iou(one.boxes, target.boxes) >= BAND["agree"]
        finds &= one.labels[:, None] == target.labels
        objects = int((finds & sure[:, None]).any(dim=0).sum())
        assert int(learned.sum()) == objects
        false = int((some & ~finds.any(dim=1)).sum())
        assert int(ignored.sum()) == len(target.labels) - objects + false
    # what a picture teaches depends on no other
    alone = [
        lessons_of(
            batch_of([one], [target for _, target in known[index : index + 1]], index < len(known)),
            **BAND,
        )
        for index, one in enumerate(taught)
    ]
    for name in ("boxes", "labels", "scores"):
        parts = [getattr(one.learned, name) for one in alone]
        assert torch.equal(torch.cat(parts), getattr(lessons.learned, name))


@trials(max_examples=30)
@given(
    places=st.permutations([(0, 18, 0), (1, 15, 1), (2, 12, 0), (3, 5, 1), (4, 1, 1)]),
    count=st.integers(0, 5),
    target=pictures(),
    labelled=st.booleans(),
)
def test_the_order_of_a_teachers_boxes_does_not_matter(places, count, target, labelled):
    said = scored(*((cell, score / 20, label) for cell, score, label in places[:count]))
    moved = ScoredBoxes(*(one.flip(0) for one in said))
    target = target[1]
    terms = [
        found(
            settings(**BAND),
            at_cells([[0.3, -1.0]] * 5, CELLS + FLAT),
            batch_of([boxes], [target] if labelled else [], int(labelled)),
            TWO_CLASSES,
        )
        for boxes in (said, moved)
    ]
    for name, term in terms[0].items():
        torch.testing.assert_close(term, terms[1][name])


def test_the_gradient_of_a_distribution_is_that_of_its_softmax():
    raw = torch.tensor([[1.0, -0.5, 0.3]], requires_grad=True)
    log_p = functional.log_softmax(raw, dim=1)
    loss = settings(beta=0).build(TWO_STAGES, TWO_STAGES)
    loss._of_outcomes(log_p, torch.tensor([[0.0, 0.75]])).sum().backward()
    expected = raw.detach().softmax(dim=1) - torch.tensor([[0.0, 0.75, 0.25]])
    torch.testing.assert_close(raw.grad, expected)
