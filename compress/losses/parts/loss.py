"""What every distillation loss is: a module that weighs two outputs in full precision.

A settings class (a `LossSection`) beside it offers, besides its fields,

- `type`, the tag in the recipe; `weight` and its schedule come from `LossSection`;
- `needs(student, teacher) -> frozenset[Knowledge]`: what to ask of both detectors in every step;
- `check(student, teacher) -> list[str]`: what else is wrong with the pair, known from the specs
  alone and so before any weight is loaded;
- `build(student, teacher) -> DistillationLoss`;
- `roi_source`, if it may need "rois": whose proposals both box heads score;
- `teacher_needs`, if it asks less of the teacher than of the student;
- `wanted_classifier`, if it learns from a classifier of crops.

A module may also override `at`, `separate`, `compared`, `disturb`, `view` and `view_terms`; see
there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compress.batch import Batch
from compress.detector import Dense, Knowledge, Outputs, Rois, Towers
from compress.training.objective import SeparateTraining

if TYPE_CHECKING:
    from compress.losses.parts.classifier import Classifier

# Named task losses of the frozen teacher on a batch with the student's labels; gradients reach the
# pictures.
TaskLosses = Callable[[Batch], Mapping[str, Tensor]]

HALF_TYPES = (torch.float16, torch.bfloat16)


class DistillationLoss(nn.Module, ABC):
    """Weighted, named terms of one method; owns its adapters, which are trained and then dropped.

    Attributes:
        weight: a factor on all terms.
        needs: what both detectors are asked for in every step.
        unweighted: terms that teach a part of `separate` alone and nothing to the student; no
            weight, schedule or `weight: auto` applies to them.
        teacher_needs: what the teacher is asked for, where that is less; nothing at all if empty.
    """

    unweighted: frozenset[str] = frozenset()

    def __init__(
        self,
        weight: float,
        needs: frozenset[Knowledge],
        teacher_needs: frozenset[Knowledge] | None = None,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.needs = needs
        self.teacher_needs = needs if teacher_needs is None else teacher_needs

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return weighted named scalars, computed in fp32 whatever autocast says.

        The teacher's tensors are detached here. Every scalar hangs on the student's graph, also
        when it is zero, so that no process of a distributed run waits for a missing gradient.
        """
        return self._in_full_precision(self.terms, student, teacher, batch)

    def forward_view(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `view_terms` as `forward` returns `terms`."""
        return self._in_full_precision(self.view_terms, student, teacher, batch)

    def _in_full_precision(
        self,
        terms: Callable[[Outputs, Outputs, Batch], dict[str, Tensor]],
        student: Outputs,
        teacher: Outputs,
        batch: Batch,
    ) -> dict[str, Tensor]:
        device_type = student.features[0].device.type
        with torch.autocast(device_type, enabled=False):
            found = terms(
                in_full_precision(student, self.needs, detach=False),
                in_full_precision(teacher, self.needs, detach=True),
                batch,
            )
        return {
            name: term if name in self.unweighted else self.weight * term
            for name, term in found.items()
        }

    def at(self, step: int, total: int) -> None:
        """Learn where the run is; for losses whose rule changes after so many steps."""

    def separate(self) -> SeparateTraining | None:
        """The part of it that is trained by an optimiser of its own, if there is one."""
        return None

    def use_classifier(self, classifier: "Classifier") -> None:
        """Take the classifier that was trained because the settings ask for one; frozen."""

    def compared(self, rois: Rois) -> Tensor | None:
        """Return which proposals count here, (R,) bool; None, all of them, unless overridden.

        Those that count for no loss are not scored by the second model. A loss may be given more
        than it asked for, if another wants them.
        """
        del rois
        return None

    def disturb(self, batch: Batch) -> Batch:
        """Return the batch that both models are to see; most losses leave it as it is.

        It counts for the task loss and for every other loss too.
        """
        return batch

    def view(self, batch: Batch, task_losses: TaskLosses) -> Batch | None:
        """Return further pictures of which both models' pyramids are wanted; most want none.

        `task_losses` are the teacher's. The maps come back to `view_terms`.
        """
        del batch, task_losses
        return None

    def view_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of what `view` returned; the outputs hold `features` alone."""
        del student, teacher, batch
        return {}

    @abstractmethod
    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the terms without the overall weight; the teacher comes detached."""


def weigh(terms: Mapping[str, tuple[float, Tensor]]) -> dict[str, Tensor]:
    """Multiply named (weight, value) pairs; a term of weight 0 is left out, not reported as 0."""
    return {name: weight * value for name, (weight, value) in terms.items() if weight}


def in_full_precision(outputs: Outputs, needs: frozenset[Knowledge], *, detach: bool) -> Outputs:
    """Return what is needed of `outputs` with half-precision tensors raised to float32."""

    def raised(tensor: Tensor) -> Tensor:
        tensor = tensor.detach() if detach else tensor
        return tensor.float() if tensor.dtype in HALF_TYPES else tensor

    asks_dense = not needs.isdisjoint({"dense", "dfl"})
    towers = outputs.towers if "towers" in needs else None
    return Outputs(
        features=tuple(raised(level) for level in outputs.features),
        backbone=tuple(raised(stage) for stage in outputs.backbone) if "backbone" in needs else (),
        anchors=outputs.anchors if "anchors" in needs else (),
        dense=_raise_dense(outputs.dense, raised) if asks_dense and outputs.dense else None,
        towers=_raise_towers(towers, raised) if towers is not None else None,
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


def _raise_towers(towers: Towers, raised: Callable[[Tensor], Tensor]) -> Towers:
    def all_of(layers: tuple[tuple[Tensor, ...], ...]) -> tuple[tuple[Tensor, ...], ...]:
        return tuple(tuple(raised(level) for level in layer) for layer in layers)

    return replace(towers, class_maps=all_of(towers.class_maps), box_maps=all_of(towers.box_maps))


def _raise_rois(rois: Rois, raised: Callable[[Tensor], Tensor]) -> Rois:
    embeddings, predicted = rois.embeddings, rois.predicted
    return replace(
        rois,
        class_logits=raised(rois.class_logits),
        deltas=raised(rois.deltas),
        embeddings=None if embeddings is None else raised(embeddings),
        predicted=None if predicted is None else raised(predicted),
    )
