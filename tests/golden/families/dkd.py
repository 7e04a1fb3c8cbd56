"""DKD on rows of logits with a target class each."""

from compress.losses.dkd import DkdConfig
from tests.golden.case import Case, Deviation, gradient, loss
from tests.golden.families.rows import BATCH, outputs, specs


def compare(case: Case) -> list[Deviation]:
    hyper = case.meta["hyper"]
    config = DkdConfig(
        type="dkd",
        temperature=hyper["tau"],
        target_weight=hyper["alpha"],
        non_target_weight=hyper["beta"],
        weight=hyper["loss_weight"],
    )
    student, labels = case.leaf("in_student"), case.tensor("in_labels").long()
    module = config.build(*specs(student))
    terms = module(outputs(student, labels), outputs(case.tensor("in_teacher"), labels), BATCH)
    total = sum(terms.values(), student.new_zeros(()))
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student", student)]
