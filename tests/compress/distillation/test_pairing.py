"""A teacher of more classes, seen with the student's alone."""

from dataclasses import replace

import torch

from compress.distillation.pairing import as_seen_by, check_pair, choose_classes, teacher_columns
from compress.losses.gid import GidConfig
from tests.compress.losses.scene import make_outputs, make_spec

STUDENT = replace(make_spec(num_classes=2), classes=("cat", "dog"))
TEACHER = replace(make_spec(num_classes=3), classes=("dog", "horse", "cat"))


def test_the_students_columns_are_found_by_name():
    assert teacher_columns(STUDENT, TEACHER) == [2, 0]
    assert teacher_columns(STUDENT, STUDENT) is None
    assert as_seen_by(STUDENT, TEACHER).classes == ("cat", "dog")


def test_dense_scores_keep_the_students_classes_in_the_students_order():
    outputs = replace(make_outputs(TEACHER, 2, seed=0), rois=None)
    assert outputs.dense is not None
    chosen = choose_classes(outputs, [2, 0]).dense
    assert chosen is not None
    assert torch.equal(chosen.class_logits, outputs.dense.class_logits[..., [2, 0]])


def test_proposals_of_a_class_that_the_student_lacks_become_background():
    outputs = make_outputs(TEACHER, 1, seed=0)
    assert outputs.rois is not None
    labels = torch.tensor([0, 1, 2, 3, 0])  # dog, horse, cat, background, dog
    rois = choose_classes(replace(outputs, rois=replace(outputs.rois, labels=labels)), [2, 0]).rois
    assert rois is not None
    assert rois.labels.tolist() == [1, 2, 0, 2, 1]
    assert torch.equal(rois.class_logits, outputs.rois.class_logits[:, [2, 0, 3]])
    assert torch.equal(rois.deltas, outputs.rois.deltas[:, [2, 0]])


def test_class_scores_of_a_teacher_that_lacks_a_class_are_refused_by_name():
    teacher = replace(make_spec(num_classes=2), classes=("cat", "cow"))
    ((index, text),) = check_pair(STUDENT, teacher, [GidConfig(type="gid")])
    assert index == 0
    assert "does not know the student's classes dog (it knows cat, cow)" in text
    assert check_pair(STUDENT, TEACHER, [GidConfig(type="gid")]) == []
