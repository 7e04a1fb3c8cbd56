"""ReviewKD: the fused map and the error of every level."""

from compress.losses.reviewkd import Fusion, ReviewKdConfig, pooled_error
from tests.compress.losses.maps import map_spec, total
from tests.golden.case import Case, Deviation, gradient, loss, overall_weight, tensor


def compare(case: Case) -> list[Deviation]:
    student, teacher = case.leaves("in_s"), case.series("in_t")
    hyper = case.meta["hyper"]
    config = ReviewKdConfig(
        type="reviewkd",
        weight=overall_weight(case),
        width=hyper["mid"],
        pools=tuple(hyper.get("pools", (4, 2, 1))),
    )
    module = config.build(map_spec(student), map_spec(teacher))
    for number, block in enumerate(reversed(module.blocks)):  # theirs begin with the coarsest
        assert isinstance(block, Fusion)
        case.load(block.reduce, f"w_abfs_{number}_conv1")
        case.load(block.expand, f"w_abfs_{number}_conv2")
        if block.attend is not None:
            case.load(block.attend, f"w_abfs_{number}_att_conv_0")
    value = total(module, student, teacher)
    value.backward()
    own = [level for level, _ in module.levels.select(student, teacher)]
    found = [loss(case, "out_total", value)]
    for level, fused in enumerate(module.fuse(own)):
        found.append(tensor(case, f"out_fused_{level}", fused))
        error = pooled_error(fused, teacher[level], config.pools)
        found.append(loss(case, f"out_hcl_{level}", error))
        found.append(gradient(case, f"grad_s_{level}", student[level]))
    return found
