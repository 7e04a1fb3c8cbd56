"""GI selection with the per-class score: no clipping, no size filter, one picture."""

import torch
from torch import Tensor

from compress.losses.parts.gid_selection import rank_locations, suppress
from tests.golden.case import Case, Deviation, exact


def compare(case: Case) -> list[Deviation]:
    hyper = case.meta["hyper"]
    disagreement, boxes = rank_locations(
        case.tensor("in_cls_s")[None],
        case.tensor("in_cls_t")[None],
        _boxes(case, "s")[None],
        _boxes(case, "t")[None],
        score="class",
        box_from="class",
    )
    kept = suppress(boxes[0], disagreement[0], iou=hyper["nms"], limit=hyper["K"])
    return [exact(case, "out_indices", kept)]


def _boxes(case: Case, side: str) -> Tensor:
    left_top, right_bottom = case.tensor(f"in_ltrb_{side}").split(2, dim=1)
    centres = case.tensor("in_centres")
    return torch.cat([centres - left_top, centres + right_bottom], dim=1)
