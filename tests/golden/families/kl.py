"""KL on rows of logits."""

from compress.losses.kl import KlConfig
from tests.golden.case import Case, Deviation, UnreadableCaseError
from tests.golden.families.rows import compare_rows


def compare(case: Case) -> list[Deviation]:
    hyper = case.meta["hyper"]
    if hyper.get("reduction", "batchmean") != "batchmean":
        raise UnreadableCaseError(f"{case.name}: reduction {hyper['reduction']!r} is not ours")
    config = case.settings(KlConfig, {"type": "kl"}, temperature="tau", weight="loss_weight")
    return compare_rows(case, config, case.leaf("in_student"))
