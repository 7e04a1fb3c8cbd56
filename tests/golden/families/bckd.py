"""BCKD's class term on rows of logits with a label weight each."""

from compress.losses.parts.responses import focal_cross_entropy, score_gap
from compress.parts.processes import over_batch
from tests.golden.case import Case, Deviation, gradient, loss


def compare(case: Case) -> list[Deviation]:
    hyper = case.meta["hyper"]
    student, scores = case.leaf("in_student"), case.tensor("in_teacher").sigmoid()
    rows = focal_cross_entropy(student, scores, score_gap(student, scores), hyper["beta"])
    value = (case.tensor("in_weight") * rows).sum()
    total = hyper["loss_weight"] * over_batch(value, hyper["avg_factor"])
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student", student)]
