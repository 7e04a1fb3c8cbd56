"""DKD on rows of logits with a target class each."""

from compress.losses.dkd import DkdConfig
from tests.golden.case import Case, Deviation
from tests.golden.families.rows import compare_rows


def compare(case: Case) -> list[Deviation]:
    weights = {"target_weight": "alpha", "non_target_weight": "beta", "weight": "loss_weight"}
    config = case.settings(DkdConfig, {"type": "dkd"}, temperature="tau", **weights)
    return compare_rows(case, config, case.leaf("in_student"), case.tensor("in_labels").long())
