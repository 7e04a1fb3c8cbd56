"""RKD on vectors: a map of one cell is its own mean, so each row stands as one picture's map."""

from compress.losses.rkd import RkdConfig
from tests.golden import maps
from tests.golden.case import Case, Deviation, gradient, loss


def compare(case: Case) -> list[Deviation]:
    student, teacher = case.leaf("in_student"), case.tensor("in_teacher")
    own, other = (rows[:, :, None, None] for rows in (student, teacher))
    config = RkdConfig(
        type="rkd", weight=maps.weight(case), normalize=case.meta["hyper"].get("l2_norm", True)
    )
    module = config.build(maps.spec([own]), maps.spec([other]))
    total = maps.total(module, [own], [other])
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student", student)]
