"""GID end to end: selection, pooled patches, four terms and their gradients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from compress.batch import Batch, Targets
from compress.detector import Dense, DetectorSpec, Outputs
from compress.detectors.parts.assignment import overlap_mask
from compress.losses.gid import Gid, GidConfig
from compress.losses.parts.gid_selection import ScoreForm
from compress.losses.parts.patches import pool_instances
from tests.golden.case import (
    Case,
    Deviation,
    UnreadableCaseError,
    backward,
    exact,
    gradient,
    loss,
    tensor,
)

TERMS = {
    "feature": "out_feature",
    "relation": "out_relation",
    "response_class": "out_cls",
    "response_box": "out_reg",
}
SCORE_FORMS: dict[str, ScoreForm] = {
    "abs(sigmoid(max_c": "max",
    "abs(max_c": "max",
    "max_c": "class",
}


def compare(case: Case) -> list[Deviation]:
    features_s, features_t = case.leaves("in_feat_s"), case.series("in_feat_t")
    class_s, delta_s = case.leaf("in_cls_s"), case.leaf("in_delta_s")
    assign = _assigner(case)
    dense_s = Dense(class_s, delta_s, case.tensor("in_boxes_s"), assign)
    dense_t = Dense(
        case.tensor("in_cls_t"), case.tensor("in_delta_t"), case.tensor("in_boxes_t"), assign
    )
    module = _build(case)
    batch = _batch(case.tensor("in_img_hw"))
    terms = module(
        Outputs(tuple(features_s), dense=dense_s), Outputs(tuple(features_t), dense=dense_t), batch
    )
    total = backward(terms)

    selected = module.select(dense_s, dense_t, batch.sizes)
    image = torch.arange(len(selected.boxes)).repeat_interleave(torch.tensor(selected.counts))
    found = [
        exact(case, "out_gi_boxes", torch.cat(selected.boxes)),
        exact(case, "out_gi_img", image),
        tensor(case, "out_gi_score", torch.cat(selected.scores)),
        exact(case, "out_response_mask", assign(selected.boxes)),
    ]
    strides, size = module.levels.strides, module.config.roi_size
    adapted = [module.adapter(level) for level in features_s]
    for key, maps in (("out_pooled_t", features_t), ("out_pooled_s", adapted)):
        if key in case:
            found.append(tensor(case, key, pool_instances(maps, strides, selected.boxes, size)))
    found += [
        loss(case, theirs, terms[ours])
        for ours, theirs in TERMS.items()
        if theirs in case and ours in terms
    ]
    found.append(loss(case, "out_total", total))
    for level, leaf in zip(case.levels("in_feat_s"), features_s, strict=True):
        found.append(gradient(case, f"grad_feat_s_{level}", leaf))
    return [
        *found,
        gradient(case, "grad_cls_s", class_s),
        gradient(case, "grad_delta_s", delta_s),
    ]


def _build(case: Case) -> Gid:
    hyper: dict[str, Any] = case.meta["hyper"]
    weights = sorted(key for key in case.arrays if key.startswith("w_"))
    config = GidConfig(
        type="gid",
        instances=hyper["K"],
        nms_iou=hyper["nms"],
        # Two names for one thing; were they to differ, the smaller one acts.
        pre_nms=min(hyper.get("pre", 3000), hyper.get("pre_nms_topk", 3000)),
        min_size_px=hyper.get("min_box_side", 10),
        score=_score_form(case),
        box_from="max",
        roi_size=hyper["pool"],
        feature_weight=hyper["l_feat"],
        relation_weight=hyper["l_rel"],
        relation_beta=hyper.get("rel_smooth_l1_beta", 1.0),
        class_weight=hyper["l_cls"],
        box_weight=hyper["l_reg"],
        box_beta=hyper.get("beta_reg", 0.0),
        adapter=bool(weights),
    )
    student, teacher = (_spec(case, side) for side in ("s", "t"))
    problems = config.check(student, teacher)
    if problems:
        raise UnreadableCaseError(f"{case.name}: {'; '.join(problems)}")
    module = config.build(student, teacher)
    if weights:
        case.load(
            module.adapter, next(w for w in weights if w.endswith("_weight"))[: -len("_weight")]
        )
    return module


def _score_form(case: Case) -> ScoreForm:
    said = case.meta.get("gi_score", "max_c").replace(" ", "").lstrip("|")
    for start, form in SCORE_FORMS.items():
        if said.startswith(start):
            return form
    raise UnreadableCaseError(f"{case.name}: gi_score {said!r} is no form of score that we know")


def _spec(case: Case, side: str) -> DetectorSpec:
    return DetectorSpec(
        family="golden",
        num_classes=case.meta["num_classes"],
        channels=tuple(level.shape[1] for level in case.series(f"in_feat_{side}")),
        strides=tuple(case.meta["strides"]),
        backbone_channels=(),
        backbone_strides=(),
        provides=frozenset({"features", "dense"}),
        locations="the vector's anchors",
    )


def _batch(sizes: Tensor) -> Batch:
    images, (height, width) = sizes.shape[0], sizes.amax(dim=0).tolist()
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    return Batch(
        images=torch.zeros(images, 3, height, width),
        targets=(nothing,) * images,
        sizes=sizes,
        image_ids=tuple(range(images)),
        labeled=images,
    )


def _assigner(case: Case) -> Callable[[Sequence[Tensor]], Tensor]:
    """The rule of our own anchor detectors; a case may ask for it without low-quality matches."""
    anchors = torch.cat(case.series("in_anchors"))
    enough = case.meta["hyper"].get("response_iou", [0.4, 0.5])[1]
    if case.meta["hyper"].get("low_quality_matches", True):
        return partial(overlap_mask, anchors, threshold=enough)

    def overlapping(instances: Sequence[Tensor]) -> Tensor:
        return torch.stack([(box_iou(boxes, anchors) >= enough).any(dim=0) for boxes in instances])

    return overlapping
