"""ICD by hand: one or two cells, heads of two channels, questions of known answers."""

import json
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.losses.icd import IcdConfig, weighted_error
from compress.losses.parts.icd_decoder import (
    DecoderLayer,
    auxiliary_losses,
    instance_weights,
    locate_cells,
)
from tests.compress.losses.scene import leaves, make_batch, make_outputs, make_spec

SPEC = make_spec()
BOXES = [[[4.0, 6.0, 40.0, 50.0]], []]


def build(student=SPEC, teacher=SPEC, **settings):
    config = IcdConfig.model_validate({"type": "icd", **settings})
    assert config.check(student, teacher) == []
    torch.manual_seed(0)
    return config.build(student, teacher)


class TestDecoder:
    CHANNELS, HEADS = 16, 4

    def scene(self):
        torch.manual_seed(0)
        layer = DecoderLayer(self.CHANNELS, self.HEADS)
        for bias in (layer.query.bias, layer.key.bias, layer.value.bias, layer.position.bias):
            nn.init.normal_(bias)
        cells = locate_cells(torch.tensor([[32, 32], [20, 9]]), [(4, 4)], (32, 32), self.CHANNELS)
        return layer, torch.randn(2, 3, self.CHANNELS), torch.randn(2, 16, self.CHANNELS), cells

    def test_it_answers_as_torchs_own_attention_does(self):
        layer, questions, memory, cells = self.scene()
        torchs = nn.MultiheadAttention(self.CHANNELS, self.HEADS, batch_first=True)
        parts = (layer.query, layer.key, layer.value)
        torchs.in_proj_weight.data = torch.cat([part.weight for part in parts]).data
        torchs.in_proj_bias.data = torch.cat([part.bias for part in parts]).data
        torchs.out_proj.load_state_dict(layer.output.state_dict())
        ((rows, columns),) = cells.codes
        both = [rows[:, :, None].expand(-1, -1, 4, -1), columns[:, None].expand(-1, 4, -1, -1)]
        keys = memory + layer.position(torch.cat(both, dim=-1).flatten(1, 2))
        attended, seen = torchs(
            questions, keys, memory, key_padding_mask=cells.padding, average_attn_weights=False
        )
        middle = layer.attention_norm(questions + attended)
        wide = functional.relu(layer.expand(middle))
        expected = layer.output_norm(middle + layer.reduce(wide))

        answers, attention = layer(questions, memory, cells)
        torch.testing.assert_close(answers, expected)
        torch.testing.assert_close(attention.logits(3).softmax(dim=-1), seen)

    def test_only_objects_count_and_padding_is_never_looked_at(self):
        layer, questions, memory, cells = self.scene()
        _, attention = layer(questions, memory, cells)
        real = torch.tensor([[True, True, False], [True, False, False]])
        weights = instance_weights(attention, real, temperature=2.0)
        seen = (attention.logits(3) / 2).softmax(dim=-1)
        torch.testing.assert_close(weights[0], seen[0, :, 0] + seen[0, :, 1])
        torch.testing.assert_close(weights[1], seen[1, :, 0])
        assert not weights[1][:, cells.padding[1]].any()


class TestCells:
    def test_a_cells_stride_is_averaged_over_both_axes(self):
        # 64 x 80 px in 2 x 3 cells: (32 + 26.67) / 2 = 29.33 px. 55 px end in the second column
        # (1.9 cells); by the columns' own 26.67 px they would reach into the third (2.06 cells).
        cells = locate_cells(torch.tensor([[64, 55], [29, 80]]), [(2, 3)], (64, 80), 4)
        assert cells.padding.tolist() == [
            [False, False, True, False, False, True],
            [False, False, False, True, True, True],
        ]

    def test_positions_are_shares_of_the_unpadded_picture(self):
        # Two of four rows are inside: 1/2 and 2/2 of a turn. Features by sine and cosine in turns,
        # the second pair 10000 ** (2 / 4) = 100 times slower.
        cells = locate_cells(torch.tensor([[16, 32]]), [(4, 4)], (32, 32), 8)
        ((rows, columns),) = cells.codes
        turns = [math.pi, 2 * math.pi]
        expected = [[math.sin(t), math.cos(t), math.sin(t / 100), math.cos(t / 100)] for t in turns]
        torch.testing.assert_close(rows[0, :2], torch.tensor(expected), atol=1e-5, rtol=0)
        assert columns[0, 0, 0] == pytest.approx(1.0)  # a quarter of a turn

    def test_levels_follow_one_another(self):
        cells = locate_cells(torch.tensor([[8, 16]]), [(2, 2), (1, 1)], (16, 16), 4)
        assert cells.padding.tolist() == [[False, False, True, True, False]]


class TestAuxiliary:
    REAL = torch.tensor([[True, False, False]])
    PRESENT = torch.tensor([[True, True, False]])

    def test_every_query_in_use_has_the_same_weight(self):
        # logits 0 and ln 3: -ln 1/2 for the object, -ln(1 - 3/4) for the made-up one; mean of two
        predictions = torch.zeros(1, 3, 5)
        predictions[0, 1, 0] = math.log(3)
        predictions[0, 2, 0] = 50.0  # nobody asked
        there, _ = auxiliary_losses(predictions, self.REAL, self.PRESENT, torch.ones(1, 3, 4))
        assert float(there) == pytest.approx((math.log(2) + math.log(4)) / 2)

    def test_an_edge_is_measured_in_the_boxs_own_width_and_height(self):
        # All four predicted at sigmoid(0) = 0.5. Width 0.1 + 0.3, height 0.2 + 0.6:
        # (0.4 + 0.2) / 0.4 + (0.3 + 0.1) / 0.8 = 2.0; made-up objects have no edges.
        offsets = torch.tensor([[[0.1, 0.2, 0.3, 0.6], [0.9, 0.9, 0.9, 0.9], [0, 0, 0, 0]]])
        _, box = auxiliary_losses(torch.zeros(1, 3, 5), self.REAL, self.PRESENT, offsets)
        assert float(box) == pytest.approx(2.0)

    def test_without_any_question_both_are_zero(self):
        none = torch.zeros(1, 3, dtype=torch.bool)
        found = auxiliary_losses(torch.zeros(1, 3, 5), none, none, torch.zeros(1, 3, 4))
        assert [float(term) for term in found] == [0.0, 0.0]


class TestWeightedError:
    """Heads of two channels are +1 and -1 once normalised, whatever their size."""

    def error(self, form, weights):
        teacher = torch.tensor([[[[3.0, -3.0]], [[2.0, -2.0]]]]).repeat(len(weights), 1, 1, 1)
        student = teacher.clone()
        student[:, 0] = -student[:, 0]  # cell 0 is wrong by 2 in each channel, cell 1 is right
        return float(weighted_error(student, teacher, torch.tensor(weights), form=form))

    def test_cells_count_as_much_as_they_are_looked_at(self):
        assert self.error("squared", [[[1.0, 3.0]]]) == pytest.approx(4 * 1 / 4, rel=1e-4)

    def test_a_picture_without_objects_adds_nothing_but_counts_in_the_mean(self):
        assert self.error("squared", [[[1.0, 0.0]], [[0.0, 0.0]]]) == pytest.approx(2, rel=1e-4)
        assert self.error("squared", [[[0.0, 0.0]]]) == 0

    @pytest.mark.parametrize(
        ("form", "expected"), [("absolute", 2.0), ("smooth", 1.5), ("root", 2.0)]
    )
    def test_other_forms_weigh_over_the_whole_batch(self, form, expected):
        found = self.error(form, [[[1.0, 0.0]], [[0.0, 0.0]]])
        assert found == pytest.approx(expected, rel=1e-4)


def test_the_weight_is_the_familys_unless_it_is_said():
    one_stage = make_spec(provides=frozenset({"features"}))
    assert build(one_stage).instance_weight == 8
    assert build(one_stage).most == 300
    assert build(SPEC).instance_weight == 3
    assert build(SPEC).most == 100
    assert build(instance_weight=5, queries={"slots": 7}).instance_weight == 5


@pytest.mark.parametrize(("width", "heads"), [(256, 8), (64, 8), (24, 2), (16, 4), (4, 1)])
def test_there_are_fewer_heads_below_four_channels_each(width, heads):
    assert IcdConfig(type="icd").head_count(width) == heads


def test_the_decoder_learns_apart_and_the_students_projection_with_the_student():
    loss = build(auxiliary_lr=2e-4, auxiliary_weight_decay=0.1, auxiliary_clip=0.5)
    apart = loss.separate()
    assert (apart.lr, apart.weight_decay, apart.clip) == (2e-4, 0.1, 0.5)
    inside = {id(p) for p in apart.module.parameters()}
    outside = [name for name, p in loss.named_parameters() if id(p) not in inside]
    assert outside == ["values.0.weight", "values.0.bias"]


def test_neither_side_learns_from_the_others_terms():
    loss, student = build(), make_outputs(SPEC, 2, seed=1)
    terms = loss(student, make_outputs(SPEC, 2, seed=2), make_batch(BOXES))
    auxiliary = terms["auxiliary_confidence"] + terms["auxiliary_box"]
    auxiliary.backward(retain_graph=True)
    assert all(leaf.grad is None for leaf in leaves(student))
    assert all(p.grad is None for p in loss.values.parameters())
    learned = {name: p.grad.clone() for name, p in loss.decoder.named_parameters()}
    terms["instance"].backward()
    assert all(level.grad is not None for level in student.features)
    assert all(torch.equal(learned[name], p.grad) for name, p in loss.decoder.named_parameters())


def test_an_unlabelled_picture_does_not_train_the_decoder():
    loss = build()
    batch = make_batch([[], []])
    student, teacher = make_outputs(SPEC, 2, seed=1), make_outputs(SPEC, 2, seed=2)
    asked = loss(student, teacher, batch)
    assert asked["auxiliary_confidence"].item() > 0  # a labelled picture that is empty says so
    terms = loss(student, teacher, batch._replace(labeled=0))
    assert all(term.item() == 0 for term in terms.values())


@pytest.mark.parametrize(
    ("settings", "total", "first"),
    [
        ({}, 100, 25),
        ({}, 10_000, 1000),
        ({"delay_steps": 60}, 100, 60),
        ({"delay_steps": 0}, 100, 0),
        ({"delay_steps": 10, "start": 0.5}, 100, 60),
    ],
)
def test_at_first_only_the_projection_and_the_decoder_learn(settings, total, first):
    loss = build(**settings)
    for step, rests in ((first - 1, True), (first, False)):
        if step < 0:
            continue
        loss.at(step, total)
        student = make_outputs(SPEC, 2, seed=1)
        loss.zero_grad()
        terms = loss(student, make_outputs(SPEC, 2, seed=2), make_batch(BOXES))
        torch.stack(list(terms.values())).sum().backward()
        assert (student.features[0].grad is None) == rests
        assert loss.values[0].weight.grad.any()


def test_layers_follow_one_another_and_are_averaged():
    loss = build(layers=2)
    terms = loss(make_outputs(SPEC, 2, seed=1), make_outputs(SPEC, 2, seed=2), make_batch(BOXES))
    torch.stack(list(terms.values())).sum().backward()
    assert len(loss.values) == 2
    assert all(p.grad is not None for p in loss.parameters())


class TestUnequalLevels:
    """A student of 3, 5, 6 channels and a teacher of 4, 6, 10."""

    STUDENT, TEACHER = make_spec(channels=(3, 5, 6)), make_spec(channels=(4, 6, 10))

    @pytest.mark.parametrize(
        ("teacher", "settings", "width", "projected"),
        [
            ((4, 6, 10), {}, 12, [4, 6, 10]),
            ((4, 6, 10), {"width": 8}, 8, [4, 6, 10]),
            ((128, 256, 512), {}, 256, [128, 256, 512]),
            ((4, 4, 4), {}, 4, []),
            ((4, 4, 4), {"width": 4}, 4, []),
            ((6, 6, 6), {"width": 8}, 8, [6, 6, 6]),
        ],
    )
    def test_the_teachers_levels_are_projected_to_one_width(
        self, teacher, settings, width, projected
    ):
        decoder = build(self.STUDENT, make_spec(channels=teacher), **settings).decoder
        assert decoder.width == width
        assert [layer.in_features for layer in decoder.inputs] == projected
        assert all(layer.out_features == width for layer in decoder.inputs)

    def terms(self, loss, student):
        return loss(student, make_outputs(self.TEACHER, 2, seed=2), make_batch(BOXES))

    def test_the_decoder_learns_its_projections_and_imitation_those_of_the_student(self):
        loss, student = (
            build(self.STUDENT, self.TEACHER, layers=2),
            make_outputs(self.STUDENT, 2, 1),
        )
        terms = self.terms(loss, student)
        (terms["auxiliary_confidence"] + terms["auxiliary_box"]).backward(retain_graph=True)
        assert all(layer.weight.grad.any() for layer in loss.decoder.inputs)
        assert all(p.grad is None for p in loss.values.parameters())
        learned = [layer.weight.grad.clone() for layer in loss.decoder.inputs]
        terms["instance"].backward()
        assert all(p.grad.any() for name, p in loss.values.named_parameters() if "weight" in name)
        assert len(list(loss.values.parameters())) == 2 * 3 * 2
        after = [layer.weight.grad for layer in loss.decoder.inputs]
        assert all(torch.equal(a, b) for a, b in zip(learned, after, strict=True))
        assert all(level.grad.any() for level in student.features)

    def test_a_student_with_the_teachers_values_has_nothing_to_learn(self):
        loss = build(self.TEACHER, self.TEACHER)
        (layer,) = loss.decoder.layers
        for mine, theirs in zip(loss.values[0], loss.decoder.inputs, strict=True):
            mine.weight.data = layer.value.weight.data @ theirs.weight.data
            mine.bias.data = layer.value.weight.data @ theirs.bias.data + layer.value.bias.data
        assert self.terms(loss, make_outputs(self.TEACHER, 2, seed=2))["instance"] < 1e-10
        assert self.terms(loss, make_outputs(self.TEACHER, 2, seed=3))["instance"] > 0.1


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"strides": (7, 9, 11)}, "none is shared"),
        ({"width": 6}, {}, "channels by fours; the decoder has 6"),
        ({"heads": 3, "width": 8}, {}, "does not divide the decoder's 8 channels"),
        ({"heads": 3}, {}, "heads: 3 does not divide the teacher's 4 channels .* leave it out"),
        ({"heads": 4}, {}, "heads: 4 does not divide"),
        ({"confidence_weight": 0, "box_weight": 0}, {}, "never learns where to look"),
        ({"queries": {"class_prior": [1, 1]}}, {}, "class_prior has 2 entries, but .* 3 classes"),
        ({"queries": {"class_prior": [0, 0, 0]}}, {}, "0 for every class"),
        ({"queries": {"box_statistics": [[0.1] * 4]}}, {}, "box_statistics has 1 entry"),
    ],
)
def test_a_pair_that_cannot_work_is_refused_before_it_is_built(settings, changes, message):
    config = IcdConfig.model_validate_json(json.dumps({"type": "icd", **settings}))
    (problem,) = config.check(make_spec(**changes), SPEC)
    assert re.search(message, problem), problem


def test_channels_by_fours_are_asked_for():
    (problem,) = IcdConfig(type="icd").check(SPEC, make_spec(channels=(6, 6, 6)))
    assert "by fours; the teacher has 6" in problem
