"""Soft pseudo-labels on real detectors: every family learns, and no teacher runs."""

import pytest
import torch
from torchvision.ops import box_iou

from compress.batch import ScoredBoxes, Targets
from compress.detectors.small_pairs import build_small, families, small_pair, small_settings
from compress.distillation.distiller import Distiller
from compress.distillation.pairing import check_pair
from compress.losses.pseudo_labels import PseudoLabelsConfig
from tests.compress.detectors.small import EACH_FAMILY, small_batch, small_detector, spread

pytestmark = pytest.mark.usefixtures("small_rtdetr")


def settings():
    return PseudoLabelsConfig(type="pseudo_labels")


def never(*_):
    raise AssertionError("the teacher ran")


def small_pictures():
    """Two pictures with labels, two without; a teacher found three boxes on the third."""
    batch = small_batch((2, 0, 2, 0), labeled=2)
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    return batch._replace(targets=(*batch.targets[:2], nothing, nothing))


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_students_of_every_family_learn_classes_and_boxes_while_the_teacher_rests(family):
    student, teacher = small_pair(family, norm="group")
    assert check_pair(student.spec, teacher.spec, [settings()]) == []

    teacher.register_forward_pre_hook(never)
    distiller = Distiller(spread(student), teacher, [settings()]).train()
    terms = distiller(small_pictures())
    own = {name: term for name, term in terms.items() if name.startswith("pseudo_labels/")}
    kinds = {"class", "box"}
    if family == "faster_rcnn":
        kinds |= {"proposal_class", "proposal_box"}
    assert set(own) == {f"pseudo_labels/{kind}" for kind in kinds}
    assert all(term.isfinite() and term > 0 for term in own.values())
    torch.stack(list(own.values())).sum().backward()
    learns = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("backbone") for name in learns)
    assert any(name.startswith("head") for name in learns)


@pytest.mark.slow
@pytest.mark.skipif("yolo" not in families(), reason="ultralytics is missing")
def test_both_branches_of_a_yolo26_learn_one_box_for_each_object_the_second():
    torch.manual_seed(0)
    student = spread(build_small(small_settings("yolo", model="yolo26n"))).train()
    batch = small_pictures()
    dense = student(batch, frozenset({"dense"})).dense
    objects = sum(len(target.boxes) for target in batch.targets)
    assert (dense.one_to_one.match(batch.targets) >= 0).sum() == objects
    assert (dense.match(batch.targets) >= 0).sum() > objects
    terms = Distiller(student, small_detector("gfl"), [settings()]).train()(batch)
    own = [term for name, term in terms.items() if name.startswith("pseudo_labels/one_to_one_")]
    assert len(own) == 2
    torch.stack(own).sum().backward()
    learns = [name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()]
    assert learns
    assert all(name.startswith("head.one2one_") for name in learns)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_without_any_box_of_a_teacher_terms_are_attached_and_finite(family):
    batch = small_pictures()
    nothing = ScoredBoxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    batch = batch._replace(taught=(nothing,) * 4)
    student, teacher = small_pair(family, norm="group")
    terms = Distiller(student, teacher, [settings()]).train()(batch)
    for name, term in terms.items():
        assert term.isfinite(), name
        assert term.requires_grad, name


def test_log_odds_of_an_ssd_are_those_of_a_whole_distribution():
    outputs = spread(small_detector("ssd")).eval()(small_batch(), frozenset({"dense"}))
    dense = outputs.dense
    background = dense.background_logits.sigmoid()
    torch.testing.assert_close(
        dense.class_logits.sigmoid().sum(-1) + background, torch.ones_like(background)
    )


def test_proposals_of_unlabelled_pictures_are_sampled_around_a_teachers_boxes():
    detector = spread(small_detector("faster_rcnn", rois_per_image=8)).eval()
    batch = small_pictures()
    with torch.no_grad():
        around = detector(batch, frozenset({"rois"})).rois
        plain = detector(batch._replace(taught=()), frozenset({"rois"})).rois
    for index, found_by in enumerate(batch.taught):
        near = box_iou(around.boxes[index], found_by.boxes).amax() >= 0.5
        assert near or index == 1, "the labels of the second picture say that nothing is there"
    labels = torch.split(around.labels, [len(own) for own in around.boxes])
    assert all((one == detector.spec.num_classes).all() for one in labels[2:])
    assert not around.target_deltas[-len(labels[-1]) :].any()
    for index in range(2):  # those of labelled pictures are as before
        assert torch.equal(around.boxes[index], plain.boxes[index])


@pytest.mark.slow
@pytest.mark.skipif("rtdetr" not in families(), reason="ultralytics is missing")
def test_every_box_gets_one_query_of_each_layer_and_the_best_one_where_one_is_right():
    detector = spread(small_detector("rtdetr")).train()
    batch = small_batch((2, 1))
    queries = detector(batch, frozenset({"queries"})).queries
    layers, count = queries.boxes.shape[0], queries.boxes.shape[2]
    right = [
        Targets(queries.boxes[-1, picture, [index]].detach(), torch.tensor([0]))
        for picture, index in enumerate((5, count - 1))
    ]
    sides = torch.cat([one.boxes for one in right])
    assert (sides[:, 2:] > sides[:, :2]).all()
    matched = queries.match(right)
    assert matched.shape == (layers, 2, count)
    for picture in range(2):
        assert ((matched[:, picture] == picture).sum(dim=1) == 1).all()
        assert (matched[:, picture] >= 0).sum() == layers
    assert (queries.match(batch.targets) >= 0).sum() == 3 * layers
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert (queries.match((nothing, nothing)) == -1).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gfl", "ssd", "faster_rcnn"])
def test_students_come_to_say_what_the_teacher_said(family):
    torch.manual_seed(1)
    student = spread(small_detector(family, norm="group"))
    batch = small_pictures()
    teacher = small_pair(family, norm="group").teacher
    distiller = Distiller(student, teacher, [settings()]).train()
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    sums = []
    for _ in range(15):
        terms = distiller(batch)
        own = [term for name, term in terms.items() if name.startswith("pseudo")]
        total = torch.stack(own).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        sums.append(total.item())
    assert sums[-1] < 0.5 * sums[0]
