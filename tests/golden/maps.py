"""What the families of losses on whole maps share: specs and outputs of maps alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.batch import Batch, Targets
from compress.detector import DetectorSpec, Outputs
from compress.losses.loss import DistillationLoss
from tests.golden.case import Case


def spec(maps: Sequence[Tensor]) -> DetectorSpec:
    """A detector that has these maps; strides only number them, and pair those of equal place."""
    return DetectorSpec(
        family="golden",
        num_classes=1,
        channels=tuple(level.shape[1] for level in maps),
        strides=tuple(2**level for level in range(len(maps))),
        backbone_channels=(),
        backbone_strides=(),
        provides=frozenset({"features"}),
    )


def batch(maps: Sequence[Tensor]) -> Batch:
    """Pictures without boxes, as many as there are maps of them."""
    pictures = maps[0].shape[0]
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    return Batch(
        images=torch.zeros(pictures, 3, 1, 1),
        targets=(nothing,) * pictures,
        sizes=torch.ones(pictures, 2, dtype=torch.int64),
        image_ids=tuple(range(pictures)),
        labeled=pictures,
    )


def total(module: DistillationLoss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Run the whole loss on maps; return its weighted sum."""
    terms = module(Outputs(tuple(student)), Outputs(tuple(teacher)), batch(student))
    return torch.stack(list(terms.values())).sum()


def weight(case: Case) -> float:
    """The overall factor, if the vector has one."""
    hyper = case.meta["hyper"]
    return float(hyper.get("loss_weight", hyper.get("weight", 1.0)))
