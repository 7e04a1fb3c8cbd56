"""DIST on rows of logits."""

from compress.losses.dist import DistConfig
from tests.golden.case import Case, Deviation
from tests.golden.families.rows import compare_rows


def compare(case: Case) -> list[Deviation]:
    weights = {"inter_weight": "inter", "intra_weight": "intra", "weight": "loss_weight"}
    config = case.settings(DistConfig, {"type": "dist"}, temperature="tau", **weights)
    return compare_rows(case, config, case.leaf("in_student"))
