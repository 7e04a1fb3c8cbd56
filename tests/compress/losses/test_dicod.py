"""DICOD: what a classifier of crops says of an object, asked of everything assigned to it."""

import math
from dataclasses import replace

import pytest
import torch

from compress.detector import Rois
from compress.distillation.distiller import Distiller
from compress.losses.dicod import (
    DicodConfig,
    best_of_each,
    class_term,
    paired_iou,
    roi_owners,
)
from compress.losses.parts.classifier import ClassifierConfig
from tests.compress.detectors.small import CLASSES, EACH_FAMILY, small_batch, small_detector
from tests.compress.losses.scene import EVERYTHING, make_batch, make_outputs, make_spec

pytestmark = pytest.mark.usefixtures("small_rtdetr")
TINY = ClassifierConfig.model_validate(
    {"backbone": {"type": "slim_resnet", "widths": (16, 16, 16, 16)}, "crop": 32}
)
DENSE = make_spec(provides=EVERYTHING - {"rois"})
BOXES = [[[4.0, 6.0, 40.0, 50.0], [20.0, 20.0, 32.0, 60.0]], [[30.0, 2.0, 62.0, 30.0]]]


def dicod(**settings):
    return DicodConfig.model_validate({"type": "dicod", **settings})


def taught(config, spec=DENSE):
    loss = config.build(spec, spec)
    loss.use_classifier(TINY.build(spec.num_classes))
    return loss


def scene(seed=1):
    outputs = replace(make_outputs(DENSE, 2, seed), rois=None)
    outputs.dense.boxes.requires_grad_()
    batch = make_batch(BOXES, labels=[[0, 1], [2]])
    return outputs, batch._replace(images=torch.rand(2, 3, 64, 64))


def value(student, teacher, variant, temperature=1.0, count=1.0):
    rows = torch.tensor([student]), torch.tensor([teacher])
    return class_term(
        *rows, variant=variant, temperature=temperature, count=torch.tensor(count)
    ).item()


def test_the_target_of_a_softmax_student_has_no_background():
    # p_t = (1/2, 1/2, 0), p_s = (1/3, 1/3, 1/3): KL = log(1/2) - log(1/3)
    assert value([0.0, 0, 0], [0.0, 0], "kl-ce softmax") == pytest.approx(math.log(1.5), abs=1e-6)
    # over 4 positives, and times the square of the temperature, which zeros do not feel
    assert value([0.0, 0, 0], [0.0, 0], "kl-ce softmax", 2.0, 4.0) == pytest.approx(math.log(1.5))


def test_sigmoids_are_compared_as_shares_of_their_sum():
    # sigmoids of the student 1/2, 1/2 and of the teacher 3/4, 1/4: shares are the same numbers
    logit = math.log(3)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert value([0.0, 0], [logit, -logit], "kl-ce sigmoid") == pytest.approx(expected, abs=1e-6)


def test_the_binary_form_averages_over_classes():
    logit = math.log(3)
    each = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # the same for 3/4 and for 1/4
    assert value([0.0, 0], [logit, -logit], "kl-bce sigmoid") == pytest.approx(each, abs=1e-6)


def test_the_best_predictions_of_each_object_are_taken_in_the_objects_order():
    owner = torch.tensor([1, 0, 1, 0, 1])
    score = torch.tensor([0.2, 0.9, 0.8, 0.1, 0.5])
    assert best_of_each(owner, score, 1).tolist() == [1, 2]
    assert best_of_each(owner, score, 2).tolist() == [1, 3, 2, 4]
    assert best_of_each(owner[:0], score[:0], 1).tolist() == []


def test_overlaps_are_taken_row_by_row():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0.0, 0, 2, 2]])
    others = torch.tensor([[1.0, 0, 3, 2], [5.0, 5, 6, 6]])
    assert paired_iou(boxes, others).tolist() == pytest.approx([2 / 6, 0])


def test_a_proposal_belongs_to_the_object_of_its_class_that_it_overlaps_most():
    batch = make_batch(
        [[[0.0, 0, 10, 10], [0.0, 0, 8, 8]], [[0.0, 0, 10, 10]]], labels=[[0, 1], [1]]
    )
    box = torch.tensor([[0.0, 0, 10, 10]])
    rois = Rois((box.repeat(3, 1), box), torch.tensor([0, 1, 3, 1]), torch.zeros(0), torch.zeros(0))
    # in picture 0 class 1 is the second box, whatever fits better; 3 is background
    assert roi_owners(rois, batch).tolist() == [0, 1, -1, 2]


def test_exact_boxes_give_a_localisation_term_of_zero():
    outputs, batch = scene()
    owner = outputs.dense.match(batch.targets)
    every = torch.cat([t.boxes for t in batch.targets])
    exact = torch.where((owner >= 0)[..., None], every[owner.clamp(min=0)], outputs.dense.boxes)
    same = replace(outputs, dense=replace(outputs.dense, boxes=exact))
    loss = taught(dicod())
    assert loss(same, outputs, batch)["localization"].item() == 0
    assert loss(outputs, outputs, batch)["localization"].item() > 0


def test_a_proposals_box_is_the_one_that_the_head_moves_it_to():
    student = small_detector("faster_rcnn").eval()
    batch = small_batch()
    rois = student(batch, frozenset({"rois"})).rois
    # centre and log size deltas of (10, 10, 5, 5)ths, as torchvision's coder has them
    on = (rois.labels < CLASSES).nonzero().flatten()
    own = rois.deltas[on, rois.labels[on]]
    boxes = torch.cat(rois.boxes)[on]
    sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    centres = centres + own[:, :2] / 10 * sides
    sides = sides * (own[:, 2:] / 5).exp()
    expected = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    torch.testing.assert_close(rois.predicted[on], expected)


def test_a_two_stage_students_box_layer_feels_the_localisation_term():
    student, classifier = small_detector("faster_rcnn"), TINY.build(CLASSES)
    teacher = small_detector("gfl")
    objective = Distiller(student, teacher, [dicod()], classifier=classifier).train()
    terms = objective(small_batch())
    layer = student.head.roi.box_predictor.bbox_pred.get_parameter("weight")
    (gradient,) = torch.autograd.grad(terms["dicod/localization"], layer)
    moved = gradient.view(CLASSES + 1, 4, -1).abs().sum(dim=(1, 2)) > 0
    assert not moved[0]  # of background
    assert moved[1:].any()


@pytest.mark.parametrize("per_object", [1, None])
def test_the_localisation_term_moves_boxes_of_positives_alone(per_object):
    outputs, batch = scene()
    outputs.dense.boxes.retain_grad()
    loss = taught(dicod(boxes_per_object=per_object))
    loss(outputs, outputs, batch)["localization"].backward()
    moved = outputs.dense.boxes.grad.abs().sum(dim=-1) > 0
    positive = outputs.dense.match(batch.targets) >= 0
    assert not (moved & ~positive).any()
    assert 0 < moved.sum() <= (3 if per_object else positive.sum())


def test_a_weight_of_zero_leaves_its_term_out():
    outputs, batch = scene()
    assert set(taught(dicod())(outputs, outputs, batch)) == {"class", "localization"}
    assert set(taught(dicod(class_weight=0))(outputs, outputs, batch)) == {"localization"}
    assert set(taught(dicod(localization_weight=0))(outputs, outputs, batch)) == {"class"}


@pytest.mark.parametrize("sigmoid", ["kl-ce", "kl-bce"])
def test_without_objects_both_terms_are_zero_and_attached(sigmoid):
    outputs, _ = scene()
    terms = taught(dicod(sigmoid=sigmoid))(outputs, outputs, make_batch([[], []]))
    assert all(term.item() == 0 and term.requires_grad for term in terms.values())


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_it_runs_on_every_family_without_asking_the_teacher_for_anything(family):
    student = small_detector(family)
    if not student.spec.provides & {"dense", "rois"}:
        pytest.skip("has neither locations nor proposals")
    classifier = TINY.build(CLASSES)
    teacher = small_detector("gfl")
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    objective = Distiller(student, teacher, [dicod()], classifier=classifier)
    terms = objective.train()(small_batch())
    sum(terms.values()).backward()
    assert not calls
    assert terms["dicod/class"].isfinite()
    assert terms["dicod/localization"] > 0
    assert not any("classifier" in name for name in objective.state_dict())
    assert all(p.grad is None for p in classifier.parameters())


def test_settings_that_cannot_work_are_refused_with_the_reason():
    both = make_spec()
    assert dicod().check(both, both) == []
    assert dicod(class_weight=0).check(both, both) == []
    (problem,) = dicod(class_weight=0, localization_weight=0).check(both, both)
    assert "all weights are 0" in problem
