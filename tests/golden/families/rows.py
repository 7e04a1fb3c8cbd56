"""Rows of logits as the outputs of a two-stage detector, for KL, DKD and DIST."""

import torch
from torch import Tensor

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs, Rois
from compress.losses.parts.rows import RowSection
from tests.golden.case import Case, Deviation, gradient, loss

BATCH = Batch(torch.zeros(0, 3, 1, 1), (), torch.zeros(0, 2, dtype=torch.int64), (), 0)


def specs(logits: Tensor) -> tuple[DetectorSpec, DetectorSpec]:
    spec = DetectorSpec(
        family="golden",
        num_classes=logits.shape[1] - 1,
        channels=(1,),
        strides=(8,),
        backbone_channels=(),
        backbone_strides=(),
        provides=frozenset({"features", "rois"}),
    )
    return spec, spec


def compare_rows(
    case: Case, config: RowSection, student: Tensor, labels: Tensor | None = None
) -> list[Deviation]:
    """Compare the sum of a loss's terms and the gradient of the student's logits (R, C)."""
    module = config.build(*specs(student))
    terms = module(outputs(student, labels), outputs(case.tensor("in_teacher"), labels), BATCH)
    total = sum(terms.values(), student.new_zeros(()))
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student", student)]


def outputs(logits: Tensor, labels: Tensor | None = None) -> Outputs:
    rows, columns = logits.shape
    return Outputs(
        features=(torch.zeros(1, 1, 1, 1),),
        rois=Rois(
            boxes=(torch.zeros(rows, 4),),
            labels=torch.zeros(rows, dtype=torch.int64) if labels is None else labels,
            class_logits=logits,
            deltas=torch.zeros(rows, columns - 1, 4),
        ),
    )
