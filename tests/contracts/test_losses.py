"""What every member of the recipe's union of losses keeps to."""

import copy
from dataclasses import replace

import pytest
import torch

from compress.detector import Outputs, TowerChannels
from compress.losses.parts.classifier import ClassifierConfig
from compress.methods import example, loss_settings
from tests.compress.losses.scene import (
    LARGE_PX,
    change_queries,
    leaves,
    make_batch,
    make_outputs,
    make_spec,
    reach_every_level,
)

STAGES = (2, 2, 3, 4)
PAIRS = {  # what follows a method's name in a test's -> student and teacher
    "": (make_spec(channels=(3, 3, 3), backbone_channels=STAGES), make_spec()),
    " unequal levels": (
        make_spec(
            channels=(3, 5, 6),
            backbone_channels=STAGES,
            tower_channels=TowerChannels((3, 4, 5), (2, 3, 4)),
            query_channels=5,
        ),
        make_spec(channels=(4, 8, 6), tower_channels=TowerChannels((4, 6, 5), (2, 4, 6))),
    ),
}
CASES = [(name, pair) for pair in PAIRS for name in loss_settings()]
CLASSIFIER = ClassifierConfig.model_validate(
    {"backbone": {"type": "slim_resnet", "widths": (16, 16, 16, 16)}, "crop": 32}
)
SOME = [[[4.0, 6.0, 40.0, 50.0], [20.0, 20.0, 22.0, 60.0]], [[30.0, 2.0, 62.0, 30.0]], []]
# Each of the three levels has a box of its size, by DeFeat's rule (56, 112 px) and RoIAlign's
# (224, 448 px).
OF_EVERY_SIZE = [*SOME[:2], [[0.0, 0.0, side, side] for side in (150.0, 240.0, 460.0)]]
NONE: list[list[list[float]]] = [[], [], []]


@pytest.fixture(params=CASES, ids=["".join(case) for case in CASES])
def case(request):
    return request.param


@pytest.fixture
def pair(case):
    return PAIRS[case[1]]


@pytest.fixture
def loss(case, pair):
    config = example(case[0])
    assert config.check(*pair) == []
    torch.manual_seed(0)
    return built(config, pair)


def built(config, pair):
    loss = config.build(*pair)
    if config.wanted_classifier() is not None:
        torch.manual_seed(3)
        loss.use_classifier(CLASSIFIER.build(pair[0].num_classes))
    return loss


def terms_of(loss, student, teacher, batch):
    """All that it can say: of the batch, and of pictures of its own if it wants any."""
    return {**loss(student, teacher, batch), **loss.forward_view(student, teacher, batch)}


@pytest.fixture
def student(pair):
    return make_outputs(pair[0], len(SOME), seed=1)


@pytest.fixture
def teacher(pair):
    return make_outputs(pair[1], len(SOME), seed=2)


def total(terms):
    return torch.stack(list(terms.values())).sum()


def pass_through(loss, student, teacher, batch):
    """One pass that always begins in the same state: a loss may draw and remember."""
    torch.manual_seed(0)
    return terms_of(copy.deepcopy(loss), student, teacher, batch)


@pytest.mark.parametrize("boxes", [SOME, NONE], ids=["one picture empty", "all empty"])
def test_terms_and_gradients_are_finite_without_objects(loss, student, teacher, boxes):
    terms = terms_of(loss, student, teacher, make_batch(boxes))
    total(terms).backward()
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    gradients = [leaf.grad for leaf in leaves(student) if leaf.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("boxes", [SOME, NONE], ids=["one picture empty", "all empty"])
def test_every_term_is_attached_to_the_students_graph_even_when_zero(loss, student, teacher, boxes):
    for name, term in terms_of(loss, student, teacher, make_batch(boxes)).items():
        assert term.requires_grad, name


def test_no_gradient_reaches_the_teacher(loss, student, teacher):
    total(terms_of(loss, student, teacher, make_batch(SOME))).backward()
    assert all(leaf.grad is None for leaf in leaves(teacher))


def test_the_order_of_the_pictures_does_not_matter(loss, student, teacher):
    order = [2, 0, 1]
    batch = make_batch(SOME)
    terms = pass_through(loss, student, teacher, batch)
    moved = batch._replace(
        targets=tuple(batch.targets[i] for i in order),
        taught=tuple(batch.taught[i] for i in order),
        image_ids=tuple(batch.image_ids[i] for i in order),
    )
    again = pass_through(loss, _reordered(student, order), _reordered(teacher, order), moved)
    assert terms.keys() == again.keys()
    for name, term in terms.items():
        torch.testing.assert_close(again[name], term, rtol=1e-4, atol=1e-6)


def test_half_precision_outputs_give_full_precision_finite_terms(loss, student, teacher):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = terms_of(loss, _halved(student), _halved(teacher), make_batch(SOME))
    total(terms).backward()
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_its_own_parameters_learn(loss, pair):
    with torch.no_grad():  # a layer that starts at 0 hides those before it from the first gradient
        for value in loss.parameters():
            value.add_(torch.randn_like(value), alpha=0.1)
    own, other = (make_outputs(spec, len(SOME), seed, LARGE_PX) for seed, spec in enumerate(pair))
    student, teacher = reach_every_level(own, other)
    total(terms_of(loss, student, teacher, make_batch(OF_EVERY_SIZE, LARGE_PX))).backward()
    for name, value in loss.named_parameters():
        assert value.grad is not None, name
        assert value.grad.any(), name


def test_the_overall_weight_multiplies_every_term(loss, pair, student, teacher):
    once = pass_through(loss, student, teacher, make_batch(SOME))
    config = loss.config.model_copy(update={"weight": 2.5 * loss.weight})
    heavier = built(config, pair)
    heavier.load_state_dict(loss.state_dict())
    for name, term in pass_through(heavier, student, teacher, make_batch(SOME)).items():
        factor = 1 if name in loss.unweighted else 2.5
        torch.testing.assert_close(term, factor * once[name])


def test_it_works_with_only_what_it_asks_for(loss, pair, student, teacher):
    assert loss.needs == loss.config.needs(*pair)
    full = pass_through(loss, student, teacher, make_batch(SOME))
    student, teacher = (_only(outputs, loss.needs) for outputs in (student, teacher))
    less = pass_through(loss, student, teacher, make_batch(SOME))
    assert all(torch.equal(less[name], term) for name, term in full.items())


def _only(outputs, needs):
    return Outputs(
        features=outputs.features,
        backbone=outputs.backbone if "backbone" in needs else (),
        anchors=outputs.anchors if "anchors" in needs else (),
        dense=outputs.dense if needs & {"dense", "dfl"} else None,
        towers=outputs.towers if "towers" in needs else None,
        rois=outputs.rois if "rois" in needs else None,
        queries=outputs.queries if "queries" in needs else None,
    )


def _mapped(record, change, *fields):
    return replace(record, **{name: change(getattr(record, name)) for name in fields})


def _changed(outputs, pictures, rows):
    """Apply one function to tensors by picture, another to tensors by proposal."""
    dense, rois, towers = outputs.dense, outputs.rois, outputs.towers
    return Outputs(
        features=tuple(pictures(level) for level in outputs.features),
        backbone=tuple(pictures(stage) for stage in outputs.backbone),
        anchors=outputs.anchors,
        dense=_mapped(dense, pictures, "class_logits", "deltas", "boxes", "dfl_logits"),
        towers=replace(
            towers,
            class_maps=tuple(tuple(pictures(m) for m in layer) for layer in towers.class_maps),
            box_maps=tuple(tuple(pictures(m) for m in layer) for layer in towers.box_maps),
        ),
        rois=_mapped(
            rois,
            rows,
            *("labels", "class_logits", "deltas", "target_deltas", "embeddings", "predicted"),
        ),
        queries=change_queries(outputs, pictures),
    )


def _reordered(outputs, order):
    each = len(outputs.rois.labels) // len(order)

    def rows(tensor):
        return tensor.unflatten(0, (len(order), each))[order].flatten(0, 1)

    return _changed(outputs, lambda tensor: tensor[order], rows)


def _halved(outputs):
    def half(tensor):
        return tensor.bfloat16() if tensor.is_floating_point() else tensor

    return _changed(outputs, half, half)
