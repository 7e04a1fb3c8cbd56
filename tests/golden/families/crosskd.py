"""CrossKD end to end on one level, through a frozen head with the vector's weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.detector import Dense, DetectorSpec, Towers, unmatched
from compress.detectors.parts.towers import Tower, finish_towers, flatten_cells
from compress.losses.crosskd import CrossKd, CrossKdConfig
from tests.golden.case import Case, Deviation, UnreadableCaseError, gradient, loss, tensor


class FrozenHead(nn.Module):
    """The towers and prediction layers of the vector's teacher."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        hyper = case.meta["hyper"]
        self.class_tower = _tower(case, "cls_convs")
        self.box_tower = _tower(case, "reg_convs")
        self.class_logits, self.box_logits = (_predictor(case, n) for n in ("gfl_cls", "gfl_reg"))
        self.scale = hyper.get("reg_scale", 1.0)
        self.requires_grad_(False)

    def resume(self, index: int, in_class: Sequence[Tensor], in_box: Sequence[Tensor]) -> Dense:
        ends = finish_towers(self, index, in_class, in_box)
        return as_dense(self.class_logits(ends[0][0]), self.scale * self.box_logits(ends[1][0]))


def compare(case: Case) -> list[Deviation]:
    hyper = case.meta["hyper"]
    head = FrozenHead(case)
    module = _build(case, len(head.class_tower.layers))
    in_class, in_box = case.leaf("in_stu_cls_feat"), case.leaf("in_stu_reg_feat")
    student = _towers(module.index, in_class, in_box, head)
    teacher = _towers(
        module.index, case.tensor("in_tea_cls_feat"), case.tensor("in_tea_reg_feat"), head
    )
    crossed = module.cross(student, teacher)
    said = as_dense(case.tensor("in_tea_cls"), case.tensor("in_tea_box"))
    terms = module.compare(
        crossed, said, case.tensor("in_label_weights"), torch.tensor(float(hyper["avg_factor"]))
    )
    total = sum(terms.values(), in_class.new_zeros(()))
    total.backward()

    ignored = case.tensor("in_label_weights") == 0
    weight = said.class_logits.sigmoid().amax(dim=2).masked_fill(ignored, 0.0)
    reused_class, reused_box = case.tensor("out_reused_cls"), case.tensor("out_reused_box")
    assert crossed.dfl_logits is not None
    return [
        tensor(case, "out_reused_cls", _as_map(crossed.class_logits, reused_class)),
        tensor(case, "out_reused_box", _as_map(crossed.dfl_logits, reused_box)),
        loss(case, "out_cls", terms["class"]),
        loss(
            case, "out_reg_unnormalised", module.box_weight * module.box_sum(crossed, said, weight)
        ),
        loss(case, "out_reg_weight_sum", weight.sum()),
        loss(case, "out_total", total),
        gradient(case, "grad_stu_cls_feat", in_class),
        gradient(case, "grad_stu_reg_feat", in_box),
    ]


def as_dense(class_map: Tensor, box_map: Tensor) -> Dense:
    """Predictions of one level; boxes play no part in the distributions' form."""
    logits = flatten_cells([box_map], box_map.shape[1])
    nowhere = logits.new_zeros(*logits.shape[:2], 4)
    class_logits = flatten_cells([class_map], class_map.shape[1])
    return Dense(class_logits, nowhere, nowhere, unmatched, logits, unmatched)


def _as_map(flat: Tensor, like: Tensor) -> Tensor:
    return flat.transpose(1, 2).reshape(like.shape)


def _build(case: Case, depth: int) -> CrossKd:
    hyper = case.meta["hyper"]
    weights = {"class_weight": "cls_weight", "box_weight": "reg_weight", "beta": "beta"}
    fixed = {"type": "crosskd", "box": "dfl"}
    config = case.settings(CrossKdConfig, fixed, index="reuse_index", temperature="T", **weights)
    channels = case.tensor("in_stu_cls_feat").shape[1]
    spec = DetectorSpec(
        family="golden",
        num_classes=hyper["num_classes"],
        channels=(channels,),
        strides=(8,),
        backbone_channels=(),
        backbone_strides=(),
        provides=frozenset({"features", "dense", "dfl", "towers"}),
        locations="the vector's cells",
        dfl_bins=hyper["reg_max"] + 1,
        tower_depth=depth,
        tower_channels=channels,
    )
    problems = config.check(spec, spec)
    if problems:
        raise UnreadableCaseError(f"{case.name}: {'; '.join(problems)}")
    return config.build(spec, spec)


def _towers(index: int, in_class: Tensor, in_box: Tensor, head: FrozenHead) -> Towers:
    """Only the layer in use has maps."""
    before: tuple[tuple[Tensor, ...], ...] = ((),) * index
    return Towers((*before, (in_class,)), (*before, (in_box,)), head.resume)


def _tower(case: Case, name: str) -> Tower:
    prefix = f"w_{name}_"
    numbers = {key.removeprefix(prefix).partition("_")[0] for key in case.arrays if prefix in key}
    first = case.tensor(f"{prefix}0_conv_weight")
    width, before = first.shape[:2]
    tower = Tower(before, width, depth=len(numbers), levels=1, norm="group")
    groups = case.meta["hyper"]["gn_groups"]
    state = {}
    for index, layer in enumerate(tower.layers):
        layer.norms = nn.ModuleList([nn.GroupNorm(groups, width)])
        for ours, theirs in (
            ("conv.weight", "conv_weight"),
            ("norms.0.weight", "gn_weight"),
            ("norms.0.bias", "gn_bias"),
        ):
            state[f"layers.{index}.{ours}"] = case.tensor(f"{prefix}{index}_{theirs}")
    tower.load_state_dict(state)
    return tower


def _predictor(case: Case, name: str) -> nn.Conv2d:
    outputs, inputs, size, _ = case.tensor(f"w_{name}_weight").shape
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    case.load(layer, f"w_{name}")
    return layer
