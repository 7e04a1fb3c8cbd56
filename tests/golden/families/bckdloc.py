"""BCKD's box term on rows of box distributions, decoded as our GFL decodes them."""

from torch import Tensor

from compress.detectors.parts.gfl_losses import distances_to_boxes, expected_distances
from compress.losses.bckd import box_term
from compress.losses.parts.responses import score_gap
from compress.parts.processes import over_batch
from tests.golden.case import Case, Deviation, gradient, loss


def compare(case: Case) -> list[Deviation]:
    hyper = case.meta["hyper"]
    student = case.leaf("in_student_dfl")
    centres = case.tensor("in_centres")  # in strides

    def boxes(logits: Tensor) -> Tensor:
        return distances_to_boxes(expected_distances(logits), centres, centres.new_ones(1, 1))

    gap = score_gap(case.tensor("in_cls_s"), case.tensor("in_cls_t").sigmoid())
    teacher = boxes(case.tensor("in_teacher_dfl"))
    value = box_term(boxes(student), teacher, gap, case.tensor("in_label_weight"))
    total = hyper["loss_weight"] * over_batch(value, hyper["avg_factor"])
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student_dfl", student)]
