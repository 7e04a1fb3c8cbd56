"""KD-DETR's shared probes, on made-up decoders and on real detectors."""

import math
from dataclasses import replace

import pytest
import torch

from compress.batch import Targets
from compress.detector import Knowledge
from compress.detectors.small_pairs import (
    build_pair,
    build_small,
    families,
    small_settings,
    unlike_pairs,
)
from compress.distillation.distiller import Distiller
from compress.distillation.pairing import check_pair, choose_classes
from compress.losses.kddetr import KdDetrConfig
from compress.losses.parts.full_precision import in_full_precision
from tests.compress.detectors.small import small_batch, spread
from tests.compress.losses.scene import (
    SIZE_PX,
    decoder_of,
    make_batch,
    make_outputs,
    make_spec,
)

DENSE: frozenset[Knowledge] = frozenset({"features", "dense"})
TWO_STAGE: frozenset[Knowledge] = DENSE | {"rois"}
SPEC = make_spec()
pytestmark = pytest.mark.usefixtures("small_rtdetr")
NEEDS_PACKAGE = pytest.mark.skipif("rtdetr" not in families(), reason="ultralytics is missing")
BATCH = make_batch([[], []])


def settings(**more):
    return KdDetrConfig.model_validate({"type": "kddetr", **more})


def terms_of(config, student, teacher, own=SPEC, other=SPEC, batch=BATCH):
    assert config.check(own, other) == []
    torch.manual_seed(0)
    return config.build(own, other)(student, teacher, batch)


def pair(own=SPEC, other=SPEC):
    return make_outputs(own, 2, seed=1), make_outputs(other, 2, seed=2)


def total(terms):
    return torch.stack(list(terms.values())).sum()


def test_equal_decoders_have_nothing_to_learn_from_each_others_last_layer():
    outputs = make_outputs(SPEC, 2, seed=1)
    terms = terms_of(settings(layers="last"), outputs, outputs)
    assert set(terms) == {
        *("class", "l1", "giou"),
        *("random_class", "random_l1", "random_giou"),
    }
    for name, term in terms.items():
        assert abs(term.item()) < 1e-5, name


def test_earlier_layers_are_held_to_the_last_one_of_the_teacher():
    outputs = make_outputs(SPEC, 2, seed=1)
    terms = terms_of(settings(random=0), outputs, outputs)
    assert terms["class"] > 0.01
    last = terms_of(settings(random=0, layers="last"), *pair())
    every = terms_of(settings(random=0), *pair())
    assert all(every[name] > last[name] for name in last)


def test_the_terms_are_weighted_means_of_their_definitions():
    student, teacher = pair()
    found = terms_of(
        settings(random=0, layers="last", class_weight=2, l1_weight=3, giou_weight=5),
        student,
        teacher,
    )
    probes = teacher.queries
    own = student.queries.probe(probes.content, probes.references)
    mine, theirs = own.class_logits[-1].sigmoid(), probes.class_logits[-1].sigmoid()
    in_class, l1, weights = 0.0, 0.0, 0.0
    for picture in range(2):
        for query in range(probes.content.shape[1]):
            p, q = theirs[picture, query], mine[picture, query]
            weight = float(p.max().detach())
            apart = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
            in_class += weight * float(apart.sum().detach())
            boxes = [one.boxes[-1, picture, query].detach() / SIZE_PX for one in (own, probes)]
            a, b = (((x[0] + x[2]) / 2, (x[1] + x[3]) / 2, x[2] - x[0], x[3] - x[1]) for x in boxes)
            l1 += weight * sum(abs(float(i - j)) for i, j in zip(a, b, strict=True)) / 4
            weights += weight
    assert found["class"].item() == pytest.approx(2 * in_class / weights, rel=1e-4)
    assert found["l1"].item() == pytest.approx(3 * l1 / weights, rel=1e-4)


def test_what_the_teacher_takes_for_background_weighs_little():
    student, teacher = pair()
    before = terms_of(settings(random=0), student, teacher)
    logits = teacher.queries.class_logits.detach().clone()
    logits[..., 0, :] = -20  # its first query now sees nothing
    changed = replace(teacher, queries=replace(teacher.queries, class_logits=logits))
    moved = changed.queries.boxes.detach().clone()
    moved[..., 0, :] += 1e3
    after = replace(changed, queries=replace(changed.queries, boxes=moved))
    assert terms_of(settings(random=0), student, changed)["l1"] != before["l1"]
    far, near = (terms_of(settings(random=0), student, one)["l1"] for one in (after, changed))
    torch.testing.assert_close(far, near, rtol=1e-4, atol=1e-4)


def test_random_queries_follow_the_picture_and_the_seed():
    loss = settings(random=4).build(SPEC, SPEC)
    like = make_outputs(SPEC, 2, seed=2).queries
    torch.manual_seed(5)
    content, references = loss.draw(like, (7, 8))
    again, _ = loss.draw(like, (8, 7))
    assert content.shape == (2, 4, SPEC.query_channels)
    assert references.shape == (2, 4, 4)
    assert torch.equal(content[0], again[1])
    assert not torch.equal(content[0], content[1])
    torch.manual_seed(6)
    assert not torch.equal(loss.draw(like, (7, 8))[0], content)
    assert references.std() > 0.5


def test_a_linear_layer_brings_content_to_the_students_width():
    own = make_spec(query_channels=7)
    assert list(settings().build(SPEC, SPEC).parameters()) == []
    loss = settings(random=2).build(own, SPEC)
    total(loss(make_outputs(own, 2, seed=1), make_outputs(SPEC, 2, seed=2), BATCH)).backward()
    assert loss.align.weight.shape == (7, SPEC.query_channels)
    assert loss.align.weight.grad.any()


def test_probes_of_a_teacher_are_in_the_students_classes_and_without_gradient():
    teacher = make_outputs(SPEC, 2, seed=2)
    seen = in_full_precision(choose_classes(teacher, [2, 0]), frozenset({"queries"}), detach=True)
    probe = seen.queries.probe(seen.queries.content, seen.queries.references)
    for answers in (seen.queries, probe, probe.probe(probe.content, probe.references)):
        assert not answers.class_logits.requires_grad
        assert not answers.boxes.requires_grad
        torch.testing.assert_close(
            answers.class_logits, teacher.queries.class_logits[..., [2, 0]].detach()
        )


def dense_pair():
    own = make_spec(provides=DENSE)
    return own, *pair(own)


def sure(teacher, boxes, logits):
    """Let the teacher's last layer answer so in every picture, and nothing else."""
    queries = teacher.queries
    count = queries.boxes.shape[2] - len(boxes)
    boxes = torch.tensor([*boxes, *[[0.0, 0.0, 9.0, 9.0]] * count])
    logits = torch.tensor([*logits, *[[-9.0] * SPEC.num_classes] * count])
    return replace(
        teacher,
        queries=replace(
            queries,
            boxes=boxes.expand_as(queries.boxes),
            class_logits=logits.expand_as(queries.class_logits),
        ),
    )


def test_a_dense_head_imitates_answers_where_its_assigner_puts_them():
    own, student, teacher = dense_pair()
    box, logits = [8.0, 8.0, 40.0, 40.0], [0.5, 2.0, -1.0]
    found = terms_of(settings(), student, sure(teacher, [box], [logits]), own)
    targets = [Targets(torch.tensor([box]), torch.tensor([1]))] * 2
    at = student.dense.match(targets) >= 0
    assert 0 < at.sum() < at.numel()
    p, q = torch.tensor(logits).sigmoid(), student.dense.class_logits[at].sigmoid()
    apart = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(found["class"], apart.sum(dim=1).mean(), rtol=1e-4, atol=1e-5)
    total(found).backward()
    gradient = student.dense.class_logits.grad
    assert (gradient.abs().sum(dim=2) > 0).equal(at)


def test_a_dense_head_that_answers_alike_has_nothing_to_learn():
    own, student, teacher = dense_pair()
    box, logits = [8.0, 8.0, 40.0, 40.0], [0.5, 2.0, -1.0]
    dense = student.dense
    same = replace(
        dense,
        class_logits=torch.tensor(logits).expand_as(dense.class_logits),
        boxes=torch.tensor(box).expand_as(dense.boxes),
    )
    terms = terms_of(settings(), replace(student, dense=same), sure(teacher, [box], [logits]), own)
    assert all(abs(term.item()) < 1e-5 for term in terms.values())


@pytest.mark.parametrize(
    ("box", "logit"),
    [([8.0, 8.0, 40.0, 40.0], -2.0), ([8.0, 8.0, 8.5, 40.0], 4.0), ([90.0, 8.0, 99.0, 40.0], 4.0)],
    ids=["unsure", "thin", "outside"],
)
def test_answers_without_confidence_or_area_in_the_picture_teach_no_dense_head(box, logit):
    own, student, teacher = dense_pair()
    terms = terms_of(settings(), student, sure(teacher, [box], [[logit] * 3]), own)
    assert all(term.item() == 0 and term.requires_grad for term in terms.values())


def test_a_proposal_network_learns_the_best_class_score():
    own = make_spec(provides=TWO_STAGE)
    student, teacher = pair(own)
    objects = replace(student.dense, class_logits=student.dense.class_logits[..., :1])
    taught = sure(teacher, [[8.0, 8.0, 40.0, 40.0]], [[0.5, 2.0, -1.0]])
    found = terms_of(settings(), replace(student, dense=objects), taught, own)
    at = objects.match([Targets(torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([0]))] * 2)
    q, p = objects.class_logits[at >= 0].sigmoid(), torch.tensor(2.0).sigmoid()
    apart = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(found["class"], apart.mean(), rtol=1e-4, atol=1e-5)


def test_settings_without_anything_to_imitate_are_refused():
    one = make_spec(num_classes=1)
    assert "sigmoid" in settings(scores="softmax").check(one, one)[0]
    two_stage = make_spec(provides=TWO_STAGE)
    assert "proposal network" in settings(scores="softmax").check(two_stage, SPEC)[0]
    assert settings(scores="softmax").check(SPEC, SPEC) == []
    assert settings(class_weight=0, l1_weight=0, giou_weight=0).check(SPEC, SPEC)


def test_a_teacher_without_queries_is_refused():
    problems = check_pair(make_spec(provides=DENSE), make_spec(provides=DENSE), [settings()])
    assert len(problems) == 1
    assert "needs queries; teacher" in problems[0][1]


def test_a_softmax_compares_the_classes_with_each_other():
    student, teacher = pair()
    config = settings(random=0, layers="last", scores="softmax", temperature=10)
    found = terms_of(config, student, teacher)["class"].item()
    probes = teacher.queries
    mine = student.queries.probe(probes.content, probes.references).class_logits[-1]
    theirs = probes.class_logits[-1].detach()
    p, q = ((one.detach() / 10).softmax(-1) for one in (theirs, mine))
    weight = theirs.sigmoid().amax(-1)
    expected = (weight * 100 * (p * (p / q).log()).sum(-1)).sum() / weight.sum()
    assert found == pytest.approx(float(expected), rel=1e-4)
    assert math.isfinite(found)


def test_the_students_decoder_learns_and_the_teachers_does_not():
    student, teacher = pair()
    total(terms_of(settings(random=3), student, teacher)).backward()
    assert decoder_of(student).memory.grad.any()
    assert decoder_of(teacher).memory.grad is None


def with_moving_boxes(detector):
    """Change a detector so that its decoder moves boxes: the last layers begin at 0."""
    with torch.no_grad():
        for parameter in detector.head.dec_bbox_head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return detector


@pytest.fixture(scope="module")
def rtdetr():
    """Return a detector whose boxes and scores differ by query."""
    torch.manual_seed(0)
    return with_moving_boxes(spread(build_small(small_settings("rtdetr"))))


@NEEDS_PACKAGE
@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_probe_of_its_own_queries_reproduces_what_a_detector_found(rtdetr, training):
    rtdetr.train(training)
    queries = rtdetr(small_batch((2, 0)), frozenset({"queries"})).queries
    assert queries.class_logits.shape[0] == (3 if training else 1)  # layers of the decoder
    assert queries.class_logits.std() > 0.1
    assert queries.boxes.std() > 5
    moved = queries.boxes[-1] - rtdetr._as_pixels(queries.references.sigmoid())
    assert moved.abs().mean() > 0.1  # the decoder changes the boxes that it starts from
    again = queries.probe(queries.content, queries.references)
    torch.testing.assert_close(again.class_logits, queries.class_logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.boxes, queries.boxes, rtol=1e-5, atol=1e-4)


@NEEDS_PACKAGE
@pytest.mark.slow
def test_queries_are_those_of_its_candidates(rtdetr):
    rtdetr.eval()
    batch = small_batch((0, 0))
    with torch.no_grad():
        queries = rtdetr(batch, frozenset({"queries"})).queries
        candidates = rtdetr.candidates(batch.images)
    best = queries.class_logits[-1].sigmoid().flatten(1).amax(dim=1)
    torch.testing.assert_close(candidates.scores[:, 0], best)


@NEEDS_PACKAGE
@pytest.mark.slow
def test_unlabelled_pictures_are_probed_and_give_no_task_loss(rtdetr):
    rtdetr.train()
    for module in rtdetr.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    batch = small_batch((2, 0, 1), labeled=1)
    torch.manual_seed(3)
    alone = rtdetr(batch).task_losses
    torch.manual_seed(3)
    outputs = rtdetr(batch, frozenset({"queries"}))
    assert outputs.queries.content.shape[0] == 3
    for name, loss in outputs.task_losses.items():
        torch.testing.assert_close(loss, alone[name], rtol=1e-4, atol=1e-5)


@NEEDS_PACKAGE
@pytest.mark.slow
def test_a_decoder_that_ran_in_bf16_is_probed_in_bf16_and_answers_in_float32(rtdetr):
    rtdetr.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = rtdetr(small_batch((1, 1)), frozenset({"queries"}))
    seen = in_full_precision(found, frozenset({"queries"}), detach=True).queries
    again = seen.probe(seen.content, seen.references)
    assert again.class_logits.dtype == again.boxes.dtype == torch.float32
    assert not again.boxes.requires_grad
    torch.testing.assert_close(again.class_logits, seen.class_logits, rtol=1e-5, atol=1e-5)
    rough = (
        seen.class_logits - rtdetr(small_batch((1, 1)), frozenset({"queries"})).queries.class_logits
    )
    assert rough.abs().mean() > 1e-3  # it was computed in bf16


TRAINED = {
    "rtdetr-l to rtdetr-l": lambda: (small_settings("rtdetr"), small_settings("rtdetr")),
    "rtdetr-l to yolo11n": lambda: unlike_pairs()["rtdetr-l to yolo11n"],
    "rtdetr-l to faster_rcnn": lambda: unlike_pairs()["rtdetr-l to faster_rcnn"],
    "rtdetr-l to retinanet": lambda: (small_settings("retinanet"), small_settings("rtdetr")),
    "rtdetr-l to gfl": lambda: (small_settings("gfl"), small_settings("rtdetr")),
}


@NEEDS_PACKAGE
@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_pair_takes_a_training_step(name):
    torch.manual_seed(0)
    student, teacher = build_pair(*TRAINED[name]())
    with_moving_boxes(spread(teacher))
    config = settings(random=20)
    assert check_pair(student.spec, teacher.spec, [config]) == []
    distiller = Distiller(student, teacher, [config]).train()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    terms = distiller(small_batch((2, 0)))
    taught = {key: term for key, term in terms.items() if key.startswith("kddetr/")}
    assert len(taught) == (6 if student.spec.family == "rtdetr" else 3)
    assert all(term.isfinite() and term > 0 for term in taught.values())
    student.zero_grad()
    total(taught).backward()
    head = [p.grad for p in student.head.parameters() if p.grad is not None]
    assert any(gradient.any() for gradient in head)
    assert any(p.grad is not None and p.grad.any() for p in student.neck.parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
