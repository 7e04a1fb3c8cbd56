"""CWD on one map."""

from compress.losses.cwd import CwdConfig
from tests.golden import maps
from tests.golden.case import Case, Deviation, gradient, loss


def compare(case: Case) -> list[Deviation]:
    student, teacher = case.leaf("in_student"), case.tensor("in_teacher")
    config = CwdConfig(type="cwd", weight=maps.weight(case), temperature=case.meta["hyper"]["tau"])
    module = config.build(maps.spec([student]), maps.spec([teacher]))
    total = maps.total(module, [student], [teacher])
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student", student)]
