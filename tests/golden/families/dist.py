"""DIST on rows of logits."""

from compress.losses.dist import DistConfig
from tests.golden.case import Case, Deviation, gradient, loss
from tests.golden.families.rows import BATCH, outputs, specs


def compare(case: Case) -> list[Deviation]:
    hyper = case.meta["hyper"]
    config = DistConfig(
        type="dist",
        temperature=hyper["tau"],
        inter_weight=hyper["inter"],
        intra_weight=hyper["intra"],
        weight=hyper["loss_weight"],
    )
    student = case.leaf("in_student")
    module = config.build(*specs(student))
    terms = module(outputs(student), outputs(case.tensor("in_teacher")), BATCH)
    total = sum(terms.values(), student.new_zeros(()))
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student", student)]
