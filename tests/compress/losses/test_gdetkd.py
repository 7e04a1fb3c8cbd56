"""G-DetKD by hand: embeddings of one or two numbers, levels of one value."""

import math
import re

import pytest
import torch

from compress.detector import Outputs, Rois, TowerChannels
from compress.losses.gdetkd import (
    Contrast,
    GDetKd,
    GDetKdConfig,
    LevelMixture,
    box_loss,
    in_slots,
)
from compress.losses.parts.patches import LevelPatches
from tests.compress.losses.scene import (
    LARGE_PX,
    POOLED_SIDES_PX,
    make_batch,
    make_outputs,
    make_spec,
)

ONE_STAGE = make_spec(provides=frozenset({"features", "dense", "towers"}))
BARE = make_spec(provides=frozenset({"features"}))
APART = [[0.0, 0.0, 8.0, 8.0], [32.0, 32.0, 48.0, 48.0]]


def settings(**more):
    return GDetKdConfig.model_validate({"type": "gdetkd", **more})


def build(student, teacher=None, **more):
    config = settings(**more)
    teacher = teacher or student
    assert config.check(student, teacher) == []
    torch.manual_seed(0)
    return config.build(student, teacher)


def test_levels_are_mixed_by_their_likeness_to_the_teachers_region():
    # Embedding = the value itself. Levels 1 and 3 against 2 at temperature 2: likeness 1 and 3,
    # so shares 1 : e^2.
    mixture = LevelMixture(settings(match_channels=1, roi_size=1, temperature=2.0), channels=1)
    with torch.no_grad():
        for conv in (mixture.embed[0], mixture.embed[2]):
            conv.weight.fill_(1.0)
            conv.bias.zero_()
    levels = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1)
    mixed = mixture(levels, torch.full((1, 1, 1, 1), 2.0))
    assert mixed.item() == pytest.approx((1 + 3 * math.e**2) / (1 + math.e**2))
    mixed.sum().backward()
    assert mixture.log_temperature.grad.item() != 0


def test_the_temperature_starts_at_the_root_of_the_embeddings_length():
    # 7 -> 4 -> 2 cells along each side, 64 channels
    start = LevelMixture(settings(), channels=3).log_temperature.exp()
    assert start.item() == pytest.approx(math.sqrt(64 * 2 * 2))


class TestContrast:
    """Embeddings are unit vectors, projected by the identity, at temperature 1."""

    def contrast(self, queue=4):
        module = Contrast(settings(contrast_channels=2, contrast_temperature=1, queue=queue), 2, 2)
        for layer in (module.own, module.other):
            layer.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
        return module

    # -log of the share of the right one: e against 1
    ONE_OTHER = math.log((math.e + 1) / math.e)

    @pytest.mark.parametrize(
        ("boxes", "expected"),
        [
            ([APART], ONE_OTHER),
            ([APART[:1], APART[:1]], ONE_OTHER),  # the same place in another picture
            ([[APART[0], APART[0]]], 0.0),  # twice the same place: no contrast
        ],
    )
    def test_other_regions_are_contrast_unless_they_overlap(self, boxes, expected):
        found = self.contrast()(
            torch.eye(2), torch.eye(2), [torch.tensor(own) for own in boxes], len(boxes)
        )
        assert found.item() == pytest.approx(expected)

    def test_regions_of_earlier_steps_are_contrast_too(self):
        module = self.contrast()
        module(torch.eye(2), torch.eye(2), [torch.tensor(APART)], 1)
        one = torch.eye(2)[:1]
        found = module(one, one, [torch.tensor(APART[:1])], 1)
        # its like and the other one are remembered
        assert found.item() == pytest.approx(math.log((math.e + math.e + 1) / math.e))

    def test_the_queue_has_a_fixed_length_and_is_saved_with_the_weights(self):
        module = self.contrast(queue=3)
        module(torch.eye(2), torch.eye(2), [torch.tensor(APART)], 1)
        assert module.filled == 2
        module(-torch.eye(2), -torch.eye(2), [torch.tensor(APART)], 1)
        assert module.filled == 3
        assert module.queue.tolist() == [[-1, 0], [0, -1], [1, 0]]
        again = self.contrast(queue=3)
        again.load_state_dict(module.state_dict())
        assert torch.equal(again.queue, module.queue)

    def test_the_queue_is_filled_only_in_training(self):
        module = self.contrast().eval()
        module(torch.eye(2), torch.eye(2), [torch.tensor(APART)], 1)
        assert module.filled == 0

    def test_without_regions_it_is_zero(self):
        none = torch.zeros(0, 2, requires_grad=True)
        found = self.contrast()(none, none, [torch.zeros(0, 4)], 1)
        assert found.item() == 0
        assert found.requires_grad


def test_box_errors_are_expected_under_the_teachers_classes():
    # chances 1/2, 1/4, background 1/4; across: 1/2 * 1 - 1/4 * 2 = 0, down: 1/4 * 4 = 1;
    # the second proposal agrees
    logits = torch.tensor([[math.log(2), 0.0, 0.0]] * 2)
    deltas = torch.zeros(2, 2, 4)
    teacher = deltas.clone()
    teacher[0, 0, 0], teacher[0, 1, 0], teacher[0, 1, 1] = 1.0, -2.0, 4.0
    labels = torch.tensor([0, 2])
    own, other = (Rois((), labels, logits, side) for side in (deltas, teacher))
    assert box_loss(own, other).item() == pytest.approx(0.5)


def test_the_first_objects_and_background_of_each_picture_are_kept():
    loss = build(make_spec(), instances=4)  # one object, three of background (label 3)
    boxes = tuple(torch.arange(4.0 * n).view(n, 4) for n in (6, 2))
    labels = torch.tensor([3, 0, 1, 3, 3, 3, 2, 2])
    rois = Rois(boxes, labels, torch.zeros(8, 4), torch.zeros(8, 3, 4))
    kept = loss.compared(rois)
    assert kept.nonzero().flatten().tolist() == [0, 1, 3, 4, 6]
    fewer = rois.only(kept)
    assert [len(own) for own in fewer.boxes] == [4, 1]
    assert loss.compared(fewer).all()


@pytest.mark.parametrize(
    ("student", "teacher", "needs"),
    [
        (make_spec(), make_spec(), {"features", "rois"}),
        (ONE_STAGE, ONE_STAGE, {"features", "towers"}),
        (ONE_STAGE, make_spec(), {"features", "towers"}),
        (ONE_STAGE, BARE, {"features"}),
    ],
)
def test_it_takes_the_best_embeddings_that_both_have(student, teacher, needs):
    loss = build(student, teacher)
    assert loss.needs == needs
    terms = loss(make_outputs(student, 1, 1), make_outputs(teacher, 1, 2), make_batch([APART]))
    assert set(terms) == {"feature", "contrast", *(["box"] if "rois" in needs else [])}


def test_without_shared_proposals_the_regions_are_the_ground_truth_up_to_a_limit():
    spec = make_spec(channels=(2,), strides=(8,), provides=frozenset({"features"}))
    loss = build(spec, contrast_weight=0, instances=1)
    identity = {"weight": torch.eye(2)[..., None, None], "bias": torch.zeros(2)}
    loss.adapters[0].load_state_dict(identity)
    student = torch.zeros(1, 2, 8, 8)
    student[..., 4:] = 9.0  # the second box is wrong, but it is one too many
    outputs = Outputs((student,)), Outputs((torch.full((1, 2, 8, 8), 2.0),))
    boxes = [[[0.0, 0.0, 16.0, 16.0], [40.0, 40.0, 56.0, 56.0]]]
    assert loss(*outputs, make_batch(boxes))["feature"].item() == pytest.approx(4.0)


def test_a_term_without_weight_has_no_parameters():
    loss = build(BARE, feature_weight=0)
    assert isinstance(loss, GDetKd)
    assert loss.mixture is not None  # the contrast embeds the mixture where there is no head
    assert build(ONE_STAGE, feature_weight=0).mixture is None
    assert build(BARE, contrast_weight=0).contrast is None


@pytest.mark.parametrize(
    ("more", "changes", "message"),
    [
        ({}, {"strides": (7, 9, 11)}, "none is shared"),
        ({}, {"num_classes": 2}, "2 classes and the teacher 3"),
        (
            {"feature_weight": 0, "contrast_weight": 0, "box_weight": 0},
            {},
            "all weights are 0",
        ),
    ],
)
def test_a_pair_that_cannot_work_is_refused_before_it_is_built(more, changes, message):
    (problem,) = settings(**more).check(make_spec(**changes), make_spec())
    assert re.search(message, problem), problem


class TestUnequalLevels:
    """A small region of the teacher has two channels, one of 240 pixels has four."""

    STUDENT = make_spec(channels=(1, 3), strides=(8, 16), provides=frozenset({"features"}))
    TEACHER = make_spec(channels=(2, 4), strides=(8, 16), provides=frozenset({"features"}))
    BOXES: tuple[list[list[float]], ...] = ([[0.0, 0.0, 60.0, 60.0], [8.0, 8.0, 248.0, 248.0]], [])

    def terms(self, loss):
        sides = (make_outputs(spec, 2, seed, 256) for seed, spec in enumerate(self.specs))
        return loss(*sides, make_batch(self.BOXES, 256))

    specs = STUDENT, TEACHER

    def test_every_student_level_is_adapted_to_every_teacher_level(self):
        loss = build(*self.specs)
        shapes = [[tuple(one.weight.shape[:2]) for one in row] for row in loss.mixture.adapters]
        assert shapes == [[(2, 1), (2, 3)], [(4, 1), (4, 3)]]
        terms = self.terms(loss)
        assert terms.keys() == {"feature", "contrast"}
        sum(terms.values()).backward()
        assert all(p.grad is not None and p.grad.any() for p in loss.parameters())

    def test_regions_of_both_levels_weigh_alike(self):
        # The adapters give 0 everywhere, so the error is the teacher's square: 1 and 9.
        loss = build(*self.specs, contrast_weight=0)
        for adapter in loss.mixture.adapters.parameters():
            torch.nn.init.zeros_(adapter)
        student = make_outputs(self.STUDENT, 2, 0, 256)
        teacher = Outputs((torch.full((2, 2, 32, 32), 1.0), torch.full((2, 4, 16, 16), 3.0)))
        terms = loss(student, teacher, make_batch(self.BOXES, 256))
        assert terms["feature"].item() == pytest.approx((1 + 9) / 2)

    def test_without_regions_all_terms_are_zero_and_attached(self):
        loss = build(*self.specs)
        student = make_outputs(self.STUDENT, 1, 0, 256)
        terms = loss(student, make_outputs(self.TEACHER, 1, 1, 256), make_batch([[]], 256))
        sum(terms.values()).backward()
        assert [term.item() for term in terms.values()] == [0, 0]
        assert all(level.grad is not None for level in student.features)
        assert all(p.grad is not None for p in loss.parameters())


def test_towers_of_unequal_levels_have_a_projection_each():
    kinds = ONE_STAGE.provides
    student = make_spec(provides=kinds, tower_channels=TowerChannels((3, 4, 5), (2, 2, 2)))
    teacher = make_spec(provides=kinds, tower_channels=TowerChannels((4, 6, 5), (2, 2, 2)))
    loss = build(student, teacher)
    assert (loss.contrast.own.in_features, loss.contrast.other.in_features) == (12, 15)
    boxes = [[[0.0, 0.0, side, side] for side in POOLED_SIDES_PX]]
    sides = (make_outputs(spec, 1, seed, LARGE_PX) for seed, spec in enumerate((student, teacher)))
    loss(*sides, make_batch(boxes, LARGE_PX))["contrast"].backward()
    assert loss.contrast.own.weight.grad.any(dim=0).all()


def test_rows_of_unequal_levels_have_a_place_each():
    levels = [
        LevelPatches(torch.zeros(0), torch.tensor([1]), [1]),
        LevelPatches(torch.zeros(0), torch.tensor([0, 2]), [2]),
    ]
    rows = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])]
    assert in_slots(rows, levels).tolist() == [[0, 0, 3], [1, 2, 0], [0, 0, 4]]


def test_a_box_term_asks_for_proposals():
    assert "rois" in settings(box_weight=1).needs(ONE_STAGE, ONE_STAGE)
    assert settings(box_weight=0).check(make_spec(num_classes=2), make_spec()) == []
