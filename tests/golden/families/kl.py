"""KL on rows of logits."""

from compress.losses.kl import KlConfig
from tests.golden.case import Case, Deviation, UnreadableCaseError, gradient, loss
from tests.golden.families.rows import BATCH, outputs, specs


def compare(case: Case) -> list[Deviation]:
    hyper = case.meta["hyper"]
    if hyper.get("reduction", "batchmean") != "batchmean":
        raise UnreadableCaseError(f"{case.name}: reduction {hyper['reduction']!r} is not ours")
    config = KlConfig(type="kl", temperature=hyper["tau"], weight=hyper["loss_weight"])
    student = case.leaf("in_student")
    module = config.build(*specs(student))
    terms = module(outputs(student), outputs(case.tensor("in_teacher")), BATCH)
    terms["class"].backward()
    return [loss(case, "out_total", terms["class"]), gradient(case, "grad_student", student)]
