"""PKD: one level, also with maps of very different sizes."""

from compress.losses.pkd import PkdConfig
from tests.golden import maps
from tests.golden.case import Case, Deviation, gradient, loss


def compare(case: Case) -> list[Deviation]:
    student, teacher = case.leaf("in_student"), case.tensor("in_teacher")
    config = PkdConfig(
        type="pkd",
        loss_weight=maps.weight(case),
        resize="student" if case.meta["hyper"].get("resize_student", True) else "teacher",
        epsilon=case.meta["hyper"].get("eps", 1e-6),
        dead_below=0.0,  # the authors' code has no such rule
    )
    module = config.build(maps.spec([student]), maps.spec([teacher]))
    total = maps.total(module, [student], [teacher])
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student", student)]
