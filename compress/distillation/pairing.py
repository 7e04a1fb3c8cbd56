"""Check from the specs that a student, a teacher and the losses fit together; map classes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compress.batch import Batch, Targets
from compress.detector import BEFOREHAND, Dense, DetectorSpec, Knowledge, Outputs, Queries, Rois
from compress.losses.parts.loss import LossSection


def check_pair(
    student: DetectorSpec, teacher: DetectorSpec, losses: Sequence[LossSection]
) -> list[tuple[int, str]]:
    """Return the problems of these losses with this pair: (index of the loss, message)."""
    teacher = as_seen_by(student, teacher)
    problems = []
    for index, loss in enumerate(losses):
        asked: tuple[tuple[str, DetectorSpec, frozenset[Knowledge]], ...] = (
            ("student", student, loss.needs(student, teacher)),
            ("teacher", teacher, loss.teacher_needs(student, teacher)),
        )
        for role, spec, needs in asked:
            missing = needs - spec.provides - BEFOREHAND
            if missing:
                problems.append(
                    (
                        index,
                        f"{loss.type} needs {', '.join(sorted(missing))}; {role} {spec.family!r} "
                        f"provides {', '.join(sorted(spec.provides))}",
                    )
                )
        if not any(found == index for found, _ in problems):
            problems += [(index, problem) for problem in loss.check(student, teacher)]
    comparing = [one for one in losses if "rois" in one.teacher_needs(student, teacher)]
    sources = {loss.proposals_from() for loss in comparing}
    if len(sources) > 1:
        problems.append((len(losses) - 1, "roi_source differs between the losses; use one"))
    return problems


def as_seen_by(student: DetectorSpec, teacher: DetectorSpec) -> DetectorSpec:
    """Return the teacher's spec after `teacher_columns` has chosen the student's classes."""
    if teacher_columns(student, teacher) is None:
        return teacher
    return replace(teacher, num_classes=student.num_classes, classes=student.classes)


def teacher_columns(student: DetectorSpec, teacher: DetectorSpec) -> list[int] | None:
    """Return the indices of the student's classes among the teacher's.

    None if both have the same classes in the same order, if a side has no class names, or if the
    teacher lacks a class: `check_classes` reports the last case.
    """
    if not student.classes or not teacher.classes or student.classes == teacher.classes:
        return None
    if not set(student.classes) <= set(teacher.classes):
        return None
    return [teacher.classes.index(name) for name in student.classes]


def choose_classes(outputs: Outputs, columns: Sequence[int]) -> Outputs:
    """Select the student's K classes from a teacher's outputs, in the student's order.

    Background stays the last column of RoI logits; a RoI of a class that the student lacks gets
    the label of background. A proposal network's one class, object, stays.
    """
    dense, rois, towers = outputs.dense, outputs.rois, outputs.towers
    # a proposal network has one class; the RoIs have the classes
    if dense is not None and rois is None and dense.class_logits.shape[-1] > 1:
        dense = _choose_dense(dense, columns)
    if towers is not None:
        resume = towers.resume
        towers = replace(towers, resume=lambda *started: _choose_dense(resume(*started), columns))
    if rois is not None:
        classes = rois.deltas.shape[1]
        kept = [*columns, classes]
        rois = replace(
            rois,
            class_logits=rois.class_logits[:, kept],
            deltas=rois.deltas[:, list(columns)],
            labels=_relabel(rois.labels, columns, classes),
        )
    queries = outputs.queries
    if queries is not None:
        queries = _choose_queries(queries, columns)
    return replace(outputs, dense=dense, rois=rois, towers=towers, queries=queries)


def _choose_dense(dense: Dense, columns: Sequence[int]) -> Dense:
    return replace(dense, class_logits=dense.class_logits[..., list(columns)])


def _choose_queries(queries: Queries, columns: Sequence[int]) -> Queries:
    probe = queries.probe
    return replace(
        queries,
        class_logits=queries.class_logits[..., list(columns)],
        probe=lambda *probes: _choose_queries(probe(*probes), columns),
    )


def in_teachers_classes(batch: Batch, columns: Sequence[int]) -> Batch:
    """Return the batch with its labels as the teacher numbers them."""
    table = torch.tensor(columns, device=batch.images.device)
    targets = tuple(Targets(target.boxes, table[target.labels]) for target in batch.targets)
    return batch._replace(targets=targets)


def rois_in_teachers_classes(rois: Rois, columns: Sequence[int], classes: int) -> Rois:
    """Return the student's proposals with their labels as the teacher of K `classes` has them."""
    table = torch.tensor([*columns, classes], device=rois.labels.device)
    return replace(rois, labels=table[rois.labels])


def _relabel(labels: Tensor, columns: Sequence[int], classes: int) -> Tensor:
    table = torch.full((classes + 1,), len(columns), dtype=labels.dtype, device=labels.device)
    for own, theirs in enumerate(columns):
        table[theirs] = own
    return table[labels]
