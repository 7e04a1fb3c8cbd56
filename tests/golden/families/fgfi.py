"""FGFI on a pyramid: masks, the loss and the student's gradients."""

from typing import Any

from compress.detector import DetectorSpec, Outputs
from compress.losses.fgfi import Fgfi, FgfiConfig
from tests.golden.case import Case, Deviation, UnreadableCaseError, backward, exact, gradient, loss


def compare(case: Case) -> list[Deviation]:
    neck_s, neck_t = case.leaves("in_neck_s"), case.series("in_neck_t")
    boxes = case.boxes(neck_s[0].shape[0])
    student = Outputs(tuple(neck_s), anchors=tuple(case.series("in_anchors")))
    module = _build(case)
    terms = module(student, Outputs(tuple(neck_t)), case.batch(boxes))
    total = backward(terms)

    found = [loss(case, "out_total", total)]
    masks = module.masks(student, boxes)
    for level, mask, leaf in zip(case.levels("in_neck_s"), masks, neck_s, strict=True):
        if f"out_mask_{level}" in case:
            found.append(exact(case, f"out_mask_{level}", mask))
        found.append(gradient(case, f"grad_neck_s_{level}", leaf))
    return found


def _build(case: Case) -> Fgfi:
    hyper: dict[str, Any] = case.meta["hyper"]
    config = FgfiConfig(type="fgfi", weight=hyper["weight"], phi=hyper["phi"])
    specs = [_spec(case, side) for side in ("s", "t")]
    problems = config.check(*specs)
    if problems:
        raise UnreadableCaseError(f"{case.name}: {'; '.join(problems)}")
    module = config.build(*specs)
    for level, adapter in zip(case.levels("in_neck_s"), module.adapters, strict=True):
        case.load(adapter, f"w_adapt_{level}")
    return module


def _spec(case: Case, side: str) -> DetectorSpec:
    return DetectorSpec(
        family="golden",
        num_classes=1,
        channels=tuple(level.shape[1] for level in case.series(f"in_neck_{side}")),
        strides=tuple(case.meta["strides"]),
        backbone_channels=(),
        backbone_strides=(),
        provides=frozenset({"features", "anchors"}),
    )
