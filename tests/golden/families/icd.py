"""ICD's imitation term: padding, position code, attention, values, loss and gradients."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from compress.detector import DetectorSpec
from compress.losses.icd import Icd, IcdConfig
from compress.losses.parts.icd_decoder import Attention, DecoderLayer, locate_cells
from compress.losses.parts.icd_queries import Questions
from tests.golden.case import Case, Deviation, UnreadableCaseError, exact, gradient, loss, tensor

ERROR_FORMS = {
    "mse": "squared",
    "l1": "absolute",
    "smoothl1": "smooth",
    "l2": "root",
}
HIDDEN_LOGIT = -1e30  # what the vectors write for minus infinity


def compare(case: Case) -> list[Deviation]:
    own, other = case.leaves("in_feat_s"), case.series("in_feat_t")
    module = _build(case)
    maps = [(level.shape[-2], level.shape[-1]) for level in other]
    padded = case.meta["padded_hw"]
    sizes = torch.tensor(case.meta["img_hw"])
    cells = locate_cells(sizes, maps, (padded[0], padded[1]), other[0].shape[1])
    memory = torch.cat([level.flatten(2).transpose(1, 2) for level in other], dim=1)
    answers = case.tensor("in_instance_query").transpose(0, 1)
    looks: list[Attention] = []
    for layer in module.decoder.layers:
        answers, look = layer(answers, memory, cells)
        looks.append(look)
    sequence = torch.cat([level.flatten(2).transpose(1, 2) for level in own], dim=1)
    term = module.instance_weight * module.imitate([sequence], looks, _questions(case))
    term.backward()

    found = []
    cell_count = [height * width for height, width in maps]
    for level, (padding, size) in enumerate(
        zip(cells.padding.split(cell_count, dim=1), maps, strict=True)
    ):
        if f"out_pad_mask_{level}" in case:
            found.append(exact(case, f"out_pad_mask_{level}", padding.unflatten(1, (1, *size))))
    found.append(_compare_positions(case, cells.codes, cells.padding))
    for index, look in enumerate(looks):
        logits = look.logits(answers.shape[1])
        if f"out_att_logits_{index}" in case:
            hidden = logits.masked_fill(logits == -math.inf, HIDDEN_LOGIT)
            found += _compare_logits(case, f"out_att_logits_{index}", hidden)
        if f"out_value_t_{index}" in case:
            found.append(tensor(case, f"out_value_t_{index}", look.values.transpose(0, 1)))
    found.append(loss(case, "out_total", term))
    for level, leaf in zip(case.levels("in_feat_s"), own, strict=True):
        found.append(gradient(case, f"grad_feat_s_{level}", leaf))
    return found


def _compare_positions(
    case: Case, codes: tuple[tuple[Tensor, Tensor], ...], padding: Tensor
) -> Deviation:
    """Outside of the picture a code means nothing, since nothing attends there."""
    whole = [
        torch.cat(
            [
                rows[:, :, None].expand(-1, -1, columns.shape[1], -1),
                columns[:, None].expand(-1, rows.shape[1], -1, -1),
            ],
            dim=-1,
        ).flatten(1, 2)
        for rows, columns in codes
    ]
    theirs = case.tensor("out_pos_embed")
    ours = torch.cat(whole, dim=1).transpose(0, 1)
    if ours.shape == theirs.shape:
        ours = ours.where(~padding.T[..., None], theirs)
    return tensor(case, "out_pos_embed", ours)


def _compare_logits(case: Case, key: str, ours: Tensor) -> list[Deviation]:
    """Which cells are hidden, exactly; the logits of the others."""
    theirs = case.tensor(key)
    if ours.shape != theirs.shape:
        return [Deviation(f"{key} shape", float("inf"), 0.0)]
    hidden = theirs <= HIDDEN_LOGIT / 10
    wrong = float((hidden != (ours <= HIDDEN_LOGIT / 10)).sum())
    seen = Case(case.name, case.meta, {key: theirs.masked_fill(hidden, 0).numpy()})
    return [
        Deviation(f"{key} hidden", wrong, 0.0),
        tensor(seen, key, ours.masked_fill(hidden, 0)),
    ]


def _questions(case: Case) -> Questions:
    real = case.tensor("in_instance_real") > 0
    nothing = torch.zeros(*real.shape, 4)
    return Questions(
        labels=torch.zeros(real.shape, dtype=torch.int64),
        centres=nothing[..., :2],
        extents=nothing[..., :2],
        offsets=nothing,
        pixels=nothing[..., :2],
        real=real,
        present=~case.tensor("in_instance_absent"),
        most_real=real.shape[1],
    )


def _build(case: Case) -> Icd:
    hyper: dict[str, Any] = case.meta["hyper"]
    student, teacher = (_spec(case, side) for side in ("s", "t"))
    config = IcdConfig.model_validate(
        {
            "type": "icd",
            "instance_weight": hyper["weight"],
            "temperature": hyper["temperature"],
            "error": ERROR_FORMS[hyper.get("loss_form", "mse").lower()],
            "heads": hyper["heads"],
            "layers": hyper.get("layers", 1),
        }
    )
    problems = config.check(student, teacher)
    if problems:
        raise UnreadableCaseError(f"{case.name}: {'; '.join(problems)}")
    module = config.build(student, teacher)
    for index, (layer, values) in enumerate(zip(module.decoder.layers, module.values, strict=True)):
        assert isinstance(layer, DecoderLayer)
        assert isinstance(values, nn.Linear)
        _load_layer(case, layer, f"w_teacher_matt_{index}")
        _load_rows(case, [None, None, values], f"w_student_matt_{index}_matt_in_proj")
    return module


def _load_layer(case: Case, layer: DecoderLayer, prefix: str) -> None:
    _load_rows(case, [layer.query, layer.key, layer.value], f"{prefix}_matt_in_proj")
    for module, name in (
        (layer.output, "matt_out_proj"),
        (layer.position, "pos_projector"),
        (layer.expand, "linear_in"),
        (layer.reduce, "linear_out"),
        (layer.attention_norm, "norm1"),
        (layer.output_norm, "norm2"),
    ):
        if f"{prefix}_{name}_weight" in case:
            case.load(module, f"{prefix}_{name}")


def _load_rows(case: Case, modules: list[nn.Linear | None], prefix: str) -> None:
    """Blocks of rows for queries, keys and values."""
    blocks = zip(
        modules,
        case.tensor(f"{prefix}_weight").chunk(3),
        case.tensor(f"{prefix}_bias").chunk(3),
        strict=True,
    )
    for module, weight, bias in blocks:
        if module is not None:
            module.load_state_dict({"weight": weight, "bias": bias})


def _spec(case: Case, side: str) -> DetectorSpec:
    channels = tuple(level.shape[1] for level in case.series(f"in_feat_{side}"))
    return DetectorSpec(
        family="golden",
        num_classes=1,
        channels=channels,
        strides=tuple(2**level for level in range(len(channels))),
        backbone_channels=(),
        backbone_strides=(),
        provides=frozenset({"features"}),
    )
