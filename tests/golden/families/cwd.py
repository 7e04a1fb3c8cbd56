"""CWD on one map."""

from compress.losses.cwd import CwdConfig
from tests.compress.losses.maps import map_spec, total
from tests.golden.case import Case, Deviation, gradient, loss, overall_weight


def compare(case: Case) -> list[Deviation]:
    student, teacher = case.leaf("in_student"), case.tensor("in_teacher")
    config = CwdConfig(
        type="cwd", weight=overall_weight(case), temperature=case.meta["hyper"]["tau"]
    )
    module = config.build(map_spec([student]), map_spec([teacher]))
    value = total(module, [student], [teacher])
    value.backward()
    return [loss(case, "out_total", value), gradient(case, "grad_student", student)]
