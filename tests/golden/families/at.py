"""Attention transfer on one map."""

from compress.losses.at import AtConfig
from tests.golden import maps
from tests.golden.case import Case, Deviation, gradient, loss


def compare(case: Case) -> list[Deviation]:
    student, teacher = case.leaf("in_student"), case.tensor("in_teacher")
    config = AtConfig(type="at", weight=maps.weight(case))
    module = config.build(maps.spec([student]), maps.spec([teacher]))
    total = maps.total(module, [student], [teacher])
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student", student)]
