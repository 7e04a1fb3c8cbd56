"""LD's edges on rows of box logits with the weights of one region."""

import torch
from torch import Tensor

from compress.detector import Dense, DetectorSpec, Knowledge, unmatched
from compress.losses.ld import LdConfig
from tests.golden.case import Case, Deviation, UnreadableCaseError, gradient, loss


def compare(case: Case) -> list[Deviation]:
    hyper = case.meta["hyper"]
    if hyper["region"] not in {"main", "vlr"}:
        raise UnreadableCaseError(f"{case.name}: LD has no region {hyper['region']!r}")
    weights = dict.fromkeys(("main_weight", "region_weight"), "loss_weight")
    divisors = dict.fromkeys(("main_divisor", "region_divisor"), "avg_factor")
    fixed = {"type": "ld", "normalize": "none"}
    config = case.settings(LdConfig, fixed, temperature="T", **weights, **divisors)
    main = hyper["region"] == "main"
    weight = config.main_weight if main else config.region_weight
    divisor = config.main_divisor if main else config.region_divisor
    student, rows = case.leaf("in_student"), case.tensor("in_weight")
    spec = _spec(hyper["reg_max"] + 1)
    value = config.build(spec, spec).edges(
        _dense(student), _dense(case.tensor("in_teacher")), torch.ones(1, len(rows)) > 0, rows
    )
    total = weight * value / divisor
    total.backward()
    return [loss(case, "out_total", total), gradient(case, "grad_student", student)]


def _dense(logits: Tensor) -> Dense:
    """One picture; only the distributions matter."""
    nothing = torch.zeros(1, len(logits), 4)
    return Dense(nothing, nothing, nothing, unmatched, logits[None], unmatched)


def _spec(bins: int) -> DetectorSpec:
    provides: frozenset[Knowledge] = frozenset({"features", "dense", "dfl", "anchors"})
    return DetectorSpec("golden", 4, (1,), (8,), (), (), provides, "the rows", bins)
