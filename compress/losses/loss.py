"""What every distillation loss is: a module that weighs two outputs in full precision.

A settings class (a `Section`) beside it offers, besides its fields,

- `type` and `weight`: the tag in the recipe, and a factor on all of the loss's terms;
- `needs(student, teacher) -> frozenset[Knowledge]`: what to ask of both detectors in every step;
- `check(student, teacher) -> list[str]`: what else is wrong with the pair, known from the specs
  alone and so before any weight is loaded;
- `build(student, teacher) -> DistillationLoss`;
- `roi_source`, if it may need "rois": whose proposals both box heads score.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.batch import Batch
from compress.detector import Dense, Knowledge, Outputs, Rois

HALF_TYPES = (torch.float16, torch.bfloat16)


class DistillationLoss(nn.Module, ABC):
    """Weighted, named terms of one method; owns its adapters, which are trained and then dropped.

    Attributes:
        weight: a factor on all terms.
        needs: what both detectors are asked for in every step.
    """

    def __init__(self, weight: float, needs: frozenset[Knowledge]) -> None:
        super().__init__()
        self.weight = weight
        self.needs = needs

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return weighted named scalars, computed in fp32 whatever autocast says.

        The teacher's tensors are detached here. Every scalar hangs on the student's graph, also
        when it is zero, so that no process of a distributed run waits for a missing gradient.
        """
        device_type = student.features[0].device.type
        with torch.autocast(device_type, enabled=False):
            terms = self.terms(
                in_full_precision(student, self.needs, detach=False),
                in_full_precision(teacher, self.needs, detach=True),
                batch,
            )
        return {name: self.weight * term for name, term in terms.items()}

    @abstractmethod
    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the terms without the overall weight; the teacher comes detached."""


def in_full_precision(outputs: Outputs, needs: frozenset[Knowledge], *, detach: bool) -> Outputs:
    """Return what is needed of `outputs` with half-precision tensors raised to float32."""

    def raised(tensor: Tensor) -> Tensor:
        tensor = tensor.detach() if detach else tensor
        return tensor.float() if tensor.dtype in HALF_TYPES else tensor

    asks_dense = not needs.isdisjoint({"dense", "dfl"})
    return Outputs(
        features=tuple(raised(level) for level in outputs.features),
        backbone=tuple(raised(stage) for stage in outputs.backbone) if "backbone" in needs else (),
        dense=_raise_dense(outputs.dense, raised) if asks_dense and outputs.dense else None,
        rois=_raise_rois(outputs.rois, raised) if "rois" in needs and outputs.rois else None,
    )


def _raise_dense(dense: Dense, raised: Callable[[Tensor], Tensor]) -> Dense:
    return replace(
        dense,
        class_logits=raised(dense.class_logits),
        deltas=raised(dense.deltas),
        boxes=raised(dense.boxes),
        dfl_logits=None if dense.dfl_logits is None else raised(dense.dfl_logits),
    )


def _raise_rois(rois: Rois, raised: Callable[[Tensor], Tensor]) -> Rois:
    return replace(rois, class_logits=raised(rois.class_logits), deltas=raised(rois.deltas))
