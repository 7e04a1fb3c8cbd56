"""FBKD from the adapted tensors on: the four errors of one level, weighed."""

import torch

from compress.losses.fbkd import FbkdConfig, level_errors
from tests.compress.losses.maps import map_spec
from tests.golden.case import Case, Deviation, gradient, loss

STUDENT = {
    "feature": ("in_s_feat_adapted", "grad_s_feat"),
    "channel": ("in_s_channel_pool_adapted", "grad_s_channel_pool"),
    "spatial": ("in_s_spatial_pool_adapted", "grad_s_spatial_pool"),
    "relation": ("in_s_relation_adapted", "grad_s_relation"),
}
WEIGHTS = {
    "feature_weight": "feat",
    "channel_weight": "channel",
    "spatial_weight": "spatial",
    "relation_weight": "nonlocal_",
}


def compare(case: Case) -> list[Deviation]:
    one_level = {"type": "fbkd", "levels": 1, "reductions": (1,), "pools": (1,)}
    config = case.settings(FbkdConfig, one_level, **WEIGHTS)
    features = case.tensor("in_t_feat")
    teacher = {
        "feature": features,
        "channel": features.mean(dim=(2, 3)),
        "spatial": case.tensor("in_t_spatial_pool"),
        "relation": case.tensor("in_t_relation"),
    }
    student = {name: case.leaf(key) for name, (key, _) in STUDENT.items()}
    errors = level_errors(
        {name: (student[name], teacher[name]) for name in STUDENT},
        (case.tensor("in_s_spatial_att"), case.tensor("in_t_spatial_att")),
    )
    module = config.build(map_spec([features]), map_spec([features]))
    value = torch.stack(list(module.weighed([errors]).values())).sum()
    value.backward()
    return [
        loss(case, "out_total", value),
        *(gradient(case, key, student[name]) for name, (_, key) in STUDENT.items()),
    ]
