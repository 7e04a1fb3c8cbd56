"""DICOD's class term on rows of positives; background, if there is one, is the last column."""

from compress.losses.dicod import class_term
from tests.golden.case import Case, Deviation, UnreadableCaseError, gradient, loss

VARIANTS = ("kl-ce softmax", "kl-ce sigmoid", "kl-bce sigmoid")


def compare(case: Case) -> list[Deviation]:
    hyper = case.meta["hyper"]
    if hyper["variant"] not in VARIANTS:
        raise UnreadableCaseError(f"{case.name}: unknown variant {hyper['variant']!r}")
    student = case.leaf("in_student")
    total = hyper["loss_weight"] * class_term(
        student,
        case.tensor("in_teacher"),
        variant=hyper["variant"],
        temperature=hyper["T"],
        count=student.new_tensor(hyper["avg_factor"]),
    )
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student", student)]
