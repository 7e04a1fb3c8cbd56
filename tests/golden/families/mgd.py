"""MGD on one map, with the draw that the vector fixes."""

from compress.losses.mgd import MgdConfig
from tests.compress.losses.maps import map_spec
from tests.golden.case import Case, Deviation, gradient, loss


def compare(case: Case) -> list[Deviation]:
    student, teacher = case.leaf("in_student"), case.tensor("in_teacher")
    hyper = case.meta["hyper"]
    config = MgdConfig(type="mgd", loss_weight=hyper["alpha_mgd"], masked=hyper["lambda_mgd"])
    module = config.build(map_spec([student]), map_spec([teacher]))
    case.load(module.generators[0], "w_generation")
    if "w_align_weight" in case:
        case.load(module.maps.aligners[0], "w_align")
    value = module.generation_error(module.maps([student], [teacher]), [case.tensor("in_uniform")])
    value.backward()
    return [loss(case, "out_total", value), gradient(case, "grad_student", student)]
