"""DeFeat: masks, the six terms and their gradients."""

from typing import Any

import torch

from compress.detector import DetectorSpec, Outputs, Rois
from compress.losses.defeat import DeFeat, DeFeatConfig
from compress.losses.parts.masks import box_levels, level_masks, stack_boxes, union_mask
from tests.golden.case import Case, Deviation, UnreadableCaseError, backward, exact, gradient, loss

TERMS = {  # ours -> the vector's
    "neck_object": "out_neck_obj",
    "neck_background": "out_neck_bg",
    "backbone_object": "out_bb_obj",
    "backbone_background": "out_bb_bg",
    "roi_object": "out_cls_obj",
    "roi_background": "out_cls_bg",
}


def compare(case: Case) -> list[Deviation]:
    neck_s, neck_t = case.leaves("in_neck_s"), case.series("in_neck_t")
    stages_s, stages_t = case.leaves("in_bb_s"), case.series("in_bb_t")
    images = neck_s[0].shape[0]
    boxes = case.boxes(images)
    batch = case.batch(boxes)
    rois_s, rois_t = (_rois(case, side, images) for side in ("s", "t"))

    module = _build(case)
    terms = module(
        Outputs(tuple(neck_s), tuple(stages_s), rois=rois_s),
        Outputs(tuple(neck_t), tuple(stages_t), rois=rois_t),
        batch,
    )
    total = backward(terms)

    found = _masks(case, boxes)
    for ours, theirs in TERMS.items():
        if theirs in case and ours in terms:
            found.append(loss(case, theirs, terms[ours]))
        elif theirs in case and float(case.arrays[theirs]) != 0:
            raise UnreadableCaseError(f"{case.name}: {theirs} is there, but its inputs are not")
    found.append(loss(case, "out_total", total))
    for level, leaf in zip(case.levels("in_neck_s"), neck_s, strict=True):
        found.append(gradient(case, f"grad_neck_s_{level}", leaf))
    for stage, leaf in zip(case.levels("in_bb_s"), stages_s, strict=True):
        if f"grad_bb_s_{stage}" in case:
            found.append(gradient(case, f"grad_bb_s_{stage}", leaf))
    if rois_s is not None:
        found.append(gradient(case, "grad_cls_s", rois_s.class_logits))
    return found


def _build(case: Case) -> DeFeat:
    hyper: dict[str, Any] = case.meta["hyper"]
    has_stages, has_rois = bool(case.levels("in_bb_s")), "in_cls_s" in case
    student, teacher = (_spec(case, side) for side in ("s", "t"))
    config = DeFeatConfig(
        type="defeat",
        object_weight=hyper["a_obj"],
        background_weight=hyper["a_bg"],
        adapter="conv" if "w_neck_adapt_0_weight" in case else "none",
        backbone_object_weight=hyper.get("bb_obj", 0.0) if has_stages else 0.0,
        backbone_background_weight=hyper.get("bb_bg", 0.0) if has_stages else 0.0,
        backbone_stages=student.backbone_strides or None,
        roi_object_weight=hyper.get("b_obj", 0.0) if has_rois else 0.0,
        roi_background_weight=hyper.get("b_bg", 0.0) if has_rois else 0.0,
        temperature_object=hyper.get("T_obj", hyper.get("T", 1.0)),
        temperature_background=hyper.get("T_bg", hyper.get("T", 1.0)),
    )
    problems = config.check(student, teacher)
    if problems:
        raise UnreadableCaseError(f"{case.name}: {'; '.join(problems)}")
    module = config.build(student, teacher)
    if config.adapter == "conv" and module.neck_adapters is not None:
        for level, adapter in enumerate(module.neck_adapters):
            case.load(adapter, f"w_neck_adapt_{level}")
    for stage, adapter in enumerate(module.backbone_adapters or ()):
        case.load(adapter, f"w_bb_adapt_{stage}")
    return module


def _spec(case: Case, side: str) -> DetectorSpec:
    stages = case.series(f"in_bb_{side}")
    return DetectorSpec(
        family="golden",
        num_classes=case.meta["num_classes"],
        channels=tuple(level.shape[1] for level in case.series(f"in_neck_{side}")),
        strides=tuple(case.meta["strides"]),
        backbone_channels=tuple(stage.shape[1] for stage in stages),
        # Only to pair the stages in order: masks are resampled by size, not by stride.
        backbone_strides=tuple(2 ** (stage + 2) for stage in range(len(stages))),
        provides=frozenset({"features", "backbone", "rois"}),
    )


def _rois(case: Case, side: str, images: int) -> Rois | None:
    if f"in_cls_{side}" not in case:
        return None
    logits = case.leaf("in_cls_s") if side == "s" else case.tensor("in_cls_t")
    each = logits.shape[0] // images
    return Rois(
        boxes=tuple(torch.zeros(each, 4) for _ in range(images)),
        labels=case.tensor("in_labels"),
        class_logits=logits,
        deltas=torch.zeros(logits.shape[0], logits.shape[1] - 1, 4),
    )


def _masks(case: Case, boxes: list[torch.Tensor]) -> list[Deviation]:
    strides = case.meta["strides"]
    sizes = [(level.shape[2], level.shape[3]) for level in case.series("in_neck_t")]
    found = [
        exact(case, f"out_mask_neck_{level}", mask)
        for level, mask in enumerate(level_masks(boxes, strides, sizes))
        if f"out_mask_neck_{level}" in case
    ]
    if "out_box_level" in case:
        # `stack_boxes` goes by image; the vector keeps the order of `in_boxes`.
        order = case.tensor("in_boxes_img").argsort(stable=True)
        levels = torch.empty_like(order)
        levels[order] = box_levels(stack_boxes(boxes)[0], len(strides))
        found.append(exact(case, "out_box_level", levels))
    if "out_mask_bb" in case:
        found.append(exact(case, "out_mask_bb", union_mask(boxes, strides[0], sizes[0])))
    return found
