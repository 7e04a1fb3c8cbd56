"""Read one vector, and measure how far from it we are."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from compress.batch import Batch, Targets
from export.config import Section

SectionT = TypeVar("SectionT", bound=Section)

LOSS_LIMIT = 1e-5  # relative
TENSOR_LIMIT = 1e-5  # of the largest entry
GRADIENT_LIMIT = 2e-5  # of the largest entry
WEIGHT_LIMIT = 1e-6  # of each entry


class UnknownFamilyError(Exception):
    """A vector of a method that no module of tests/golden/families computes."""


class UnreadableCaseError(Exception):
    """A vector says something that its family's module does not understand."""


@dataclass(frozen=True)
class Deviation:
    """How far one quantity is from the vector's; `error` above `limit` is a failure."""

    quantity: str
    error: float
    limit: float


@dataclass(frozen=True)
class Case:
    """The contents of one `.npz`."""

    name: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key].copy())

    def leaf(self, key: str) -> Tensor:
        """An input that a gradient is wanted of."""
        return self.tensor(key).requires_grad_()

    def levels(self, prefix: str) -> list[int]:
        """The numbers at the end of `<prefix>_<number>`, in order."""
        found = [re.fullmatch(rf"{prefix}_(\d+)", key) for key in self.arrays]
        return sorted(int(match.group(1)) for match in found if match)

    def series(self, prefix: str) -> list[Tensor]:
        return [self.tensor(f"{prefix}_{level}") for level in self.levels(prefix)]

    def leaves(self, prefix: str) -> list[Tensor]:
        return [self.leaf(f"{prefix}_{level}") for level in self.levels(prefix)]

    def load(self, module: nn.Module, prefix: str) -> None:
        """Fill a module's parameters by `load_state_dict` from `<prefix>_<name>`; buffers stay."""
        names = [name for name, _ in module.named_parameters()]
        found = {name: self.tensor(f"{prefix}_{name.replace('.', '_')}") for name in names}
        module.load_state_dict(dict(module.named_buffers()) | found)

    def settings(self, kind: type[SectionT], fixed: Mapping[str, Any], **names: str) -> SectionT:
        """Return a loss's settings: `fixed`, and each other field from the named hyperparameter."""
        hyper = self.meta["hyper"]
        found = {field: hyper[theirs] for field, theirs in names.items()}
        return kind.model_validate({**fixed, **found})

    def batch(self, boxes: Sequence[Tensor]) -> Batch:
        """Return a batch of blank images of the vector's size, with one (n, 4) tensor each."""
        height, width = torch.tensor(self.meta["img_hw"]).reshape(-1, 2).amax(dim=0).tolist()
        return Batch(
            images=torch.zeros(len(boxes), 3, height, width),
            targets=tuple(Targets(b, torch.zeros(len(b), dtype=torch.int64)) for b in boxes),
            sizes=torch.tensor([[height, width]] * len(boxes)),
            image_ids=tuple(range(len(boxes))),
            labeled=len(boxes),
        )

    def boxes(self, images: int) -> list[Tensor]:
        """`in_boxes` by image."""
        boxes, image = self.tensor("in_boxes"), self.tensor("in_boxes_img")
        return [boxes[image == index] for index in range(images)]


def read_case(path: Path) -> Case:
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    return Case(path.stem, json.loads(str(arrays.pop("meta_json"))), arrays)


def backward(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the terms, after computing its gradients."""
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    return total


def overall_weight(case: Case) -> float:
    """The factor on the whole loss; 1 where the vector names none."""
    hyper = case.meta["hyper"]
    return float(hyper.get("loss_weight", hyper.get("weight", 1.0)))


def loss(case: Case, key: str, ours: Tensor) -> Deviation:
    theirs = float(case.arrays[key])
    difference = abs(float(ours.detach()) - theirs)
    return Deviation(key, difference / abs(theirs) if theirs else difference, LOSS_LIMIT)


def tensor(case: Case, key: str, ours: Tensor, limit: float = TENSOR_LIMIT) -> Deviation:
    theirs = case.tensor(key)
    if ours.shape != theirs.shape:
        return Deviation(f"{key} shape", float("inf"), limit)
    if theirs.numel() == 0:
        return Deviation(key, 0.0, limit)
    largest = float(theirs.abs().max())
    difference = float((ours.detach() - theirs).abs().max())
    return Deviation(key, difference / largest if largest else difference, limit)


def gradient(case: Case, key: str, leaf: Tensor) -> Deviation:
    ours = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return tensor(case, key, ours, GRADIENT_LIMIT)


def weights(case: Case, key: str, ours: Tensor) -> Deviation:
    """Compare entry by entry: areas divide and round by processor, and a zero must be a zero."""
    theirs = case.tensor(key)
    if ours.shape != theirs.shape:
        return Deviation(f"{key} shape", float("inf"), WEIGHT_LIMIT)
    if theirs.numel() == 0:
        return Deviation(key, 0.0, WEIGHT_LIMIT)
    difference = (ours.detach().double() - theirs.double()).abs()
    error = torch.where(difference == 0, difference, difference / theirs.double().abs())
    return Deviation(key, float(error.max()), WEIGHT_LIMIT)


def exact(case: Case, key: str, ours: Tensor) -> Deviation:
    """Count the entries that differ; none may. For what is chosen, not computed."""
    theirs = case.tensor(key)
    if ours.shape != theirs.shape:
        return Deviation(f"{key} shape", float("inf"), 0.0)
    return Deviation(key, float((ours.to(theirs.dtype) != theirs).sum()), 0.0)
