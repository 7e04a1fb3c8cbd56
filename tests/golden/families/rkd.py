"""RKD on vectors: a map of one cell is its own mean, so each row stands as one picture's map."""

from compress.losses.rkd import RkdConfig
from tests.compress.losses.maps import map_spec, total
from tests.golden.case import Case, Deviation, gradient, loss, overall_weight


def compare(case: Case) -> list[Deviation]:
    student, teacher = case.leaf("in_student"), case.tensor("in_teacher")
    own, other = (rows[:, :, None, None] for rows in (student, teacher))
    config = RkdConfig(
        type="rkd", weight=overall_weight(case), normalize=case.meta["hyper"].get("l2_norm", True)
    )
    module = config.build(map_spec([own]), map_spec([other]))
    value = total(module, [own], [other])
    value.backward()
    return [loss(case, "out_total", value), gradient(case, "grad_student", student)]
