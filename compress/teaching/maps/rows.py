"""A teacher's outputs as rows of plain tensors, one row per view of a picture, and back."""

from collections.abc import Mapping, Sequence
from itertools import count, takewhile

import torch
from torch import Tensor

from compress.detector import Dense, Knowledge, Outputs

# What can be stored: it depends on the picture alone, not on the student or the targets.
STORABLE: frozenset[Knowledge] = frozenset({"features", "backbone", "anchors", "dense", "dfl"})
LARGEST = torch.finfo(torch.float16).max
# A stored map or logit differs from the computed one by at most this share of its value, or this.
RELATIVE, ABSOLUTE = 2.0**-11, 2.0**-25

Rows = dict[str, Tensor]  # name -> (B, ...)


def as_rows(outputs: Outputs, wanted: frozenset[Knowledge]) -> Rows:
    """Return what is `wanted` as contiguous tensors of B rows, on the CPU.

    Maps and logits become float16, clamped to its range; boxes and deltas stay float32.
    """
    found: Rows = {}
    if "features" in wanted:
        found |= {f"features.{i}": level for i, level in enumerate(outputs.features)}
    if "backbone" in wanted:
        found |= {f"backbone.{i}": stage for i, stage in enumerate(outputs.backbone)}
    dense = outputs.dense
    if dense is not None and not wanted.isdisjoint({"dense", "dfl"}):
        found["dense.class_logits"] = dense.class_logits
        if dense.dfl_logits is not None and "dfl" in wanted:
            found["dense.dfl_logits"] = dense.dfl_logits
    rows = {name: _halved(value) for name, value in found.items()}
    if "dense.class_logits" in rows and dense is not None:
        rows |= {"dense.deltas": dense.deltas.float(), "dense.boxes": dense.boxes.float()}
    return {name: value.detach().cpu().contiguous() for name, value in rows.items()}


def is_part_of(name: str, wanted: frozenset[Knowledge]) -> bool:
    """Whether the tensor of this name, as `as_rows` names it, is part of what is `wanted`."""
    kind = name.partition(".")[0]
    if name == "dense.dfl_logits":
        return "dfl" in wanted
    return not wanted.isdisjoint({"dense", "dfl"}) if kind == "dense" else kind in wanted


def constants(outputs: Outputs, wanted: frozenset[Knowledge]) -> Rows:
    """Return what is the same for all pictures: anchors, and the locations of each level."""
    found: Rows = {}
    if "anchors" in wanted:
        found |= {f"anchors.{i}": level for i, level in enumerate(outputs.anchors)}
    if outputs.dense is not None:
        found["dense.level_counts"] = torch.tensor(outputs.dense.level_counts, dtype=torch.int64)
    return {name: value.detach().cpu().contiguous() for name, value in found.items()}


def as_outputs(rows: Mapping[str, Tensor], fixed: Mapping[str, Tensor]) -> Outputs:
    """Return the outputs that `as_rows` and `constants` were made from.

    `Dense.assign` and `Dense.match` raise: the teacher's assigner is not stored.
    """
    dense = None
    if "dense.class_logits" in rows:
        dense = Dense(
            class_logits=rows["dense.class_logits"],
            deltas=rows["dense.deltas"],
            boxes=rows["dense.boxes"],
            assign=_no_assigner,
            dfl_logits=rows.get("dense.dfl_logits"),
            level_counts=tuple(fixed["dense.level_counts"].tolist()),
        )
    return Outputs(
        features=_numbered("features", rows),
        backbone=_numbered("backbone", rows),
        dense=dense,
        anchors=_numbered("anchors", fixed),
    )


def out_of_range(rows: Mapping[str, Tensor]) -> int:
    """Return how many values reach the end of float16's range, where `as_rows` clamps them."""
    halves = (value for value in rows.values() if value.dtype == torch.float16)
    return sum(int((value.abs() >= LARGEST).sum()) for value in halves)


def _halved(value: Tensor) -> Tensor:
    return value.float().clamp(-LARGEST, LARGEST).half()


def _numbered(name: str, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    keys = takewhile(tensors.__contains__, (f"{name}.{i}" for i in count()))
    return tuple(tensors[key] for key in keys)


def _no_assigner(boxes: Sequence[Tensor]) -> Tensor:
    raise ValueError(f"a stored teacher has no assigner for {len(boxes)} pictures")
