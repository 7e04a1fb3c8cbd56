"""BCKD's class term on rows of logits with a label weight each."""

from compress.losses.parts.responses import focal_cross_entropy, normaliser, score_gap
from tests.golden.case import Case, Deviation, gradient, loss


def compare(case: Case) -> list[Deviation]:
    hyper = case.meta["hyper"]
    student, scores = case.leaf("in_student"), case.tensor("in_teacher").sigmoid()
    rows = focal_cross_entropy(student, scores, score_gap(student, scores), hyper["beta"])
    count = normaliser(student.new_tensor(hyper["avg_factor"]))
    total = hyper["loss_weight"] * (case.tensor("in_weight") * rows).sum() / count
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student", student)]
