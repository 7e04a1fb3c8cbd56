"""PKD: one level, also with maps of very different sizes."""

from compress.losses.pkd import PkdConfig
from tests.compress.losses.maps import map_spec, total
from tests.golden.case import Case, Deviation, gradient, loss, overall_weight


def compare(case: Case) -> list[Deviation]:
    student, teacher = case.leaf("in_student"), case.tensor("in_teacher")
    config = PkdConfig(
        type="pkd",
        loss_weight=overall_weight(case),
        resize="student" if case.meta["hyper"].get("resize_student", True) else "teacher",
        epsilon=case.meta["hyper"].get("eps", 1e-6),
        dead_below=0.0,  # the authors' code has no such rule
    )
    module = config.build(map_spec([student]), map_spec([teacher]))
    value = total(module, [student], [teacher])
    value.backward()
    return [loss(case, "out_total", value), gradient(case, "grad_student", student)]
