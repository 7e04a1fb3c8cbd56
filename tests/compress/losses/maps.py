"""Run a loss that compares maps alone, on given maps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.loss import DistillationLoss
from tests.compress.losses.scene import make_batch, make_spec


def map_spec(maps: Sequence[Tensor], **changes: Any) -> DetectorSpec:
    """A one-stage detector with these maps; strides only number them, and pair equal places."""
    settings: dict[str, Any] = {"provides": frozenset({"features"}), "num_classes": 1, **changes}
    return make_spec(
        channels=tuple(level.shape[1] for level in maps),
        strides=tuple(2**level for level in range(len(maps))),
        **settings,
    )


def run(
    module: DistillationLoss, student: Sequence[Tensor], teacher: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the terms on pictures without boxes."""
    batch = make_batch([[]] * student[0].shape[0])
    return module.forward(Outputs(tuple(student)), Outputs(tuple(teacher)), batch)


def total(module: DistillationLoss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the sum of the terms."""
    return torch.stack(list(run(module, student, teacher).values())).sum()


def one_map(config: Any, student: Tensor, teacher: Tensor, **changes: Any) -> float:
    """Build for one level and return the sum of the terms as a number."""
    own, other = map_spec([student], **changes), map_spec([teacher], **changes)
    assert config.check(own, other) == []
    return float(total(config.build(own, other), [student], [teacher]).detach())


def cells(*values: float) -> Tensor:
    """A map of one picture, one channel and one row."""
    return torch.tensor(values, dtype=torch.float32)[None, None, None]
