"""What a student learns from: the interface, and a network that runs in every step."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from compress.batch import Batch
from compress.data.taught import Taught
from compress.data.views import Views
from compress.detector import Detector, DetectorSpec, Knowledge, Outputs, Rois
from compress.distillation.folding import folded
from compress.distillation.pairing import (
    as_seen_by,
    choose_classes,
    in_teachers_classes,
    rois_in_teachers_classes,
    teacher_columns,
)

TASK: frozenset[Knowledge] = frozenset({"task"})

# Precision of the teacher's forward pass; `train` is the precision that the student trains in.
TeacherPrecision = Literal["train", "fp32", "bf16"]


class Teaching(ABC):
    """A source of outputs that a student is compared with, in the student's classes.

    Attributes:
        spec: what it provides, with the student's classes where it knows them all.
        network: the network that is passed in every step; None where outputs were computed before.
        views: the views of the pictures that it knows; None for any pictures.
        frozen: networks that no training may change, `network` first.
        taught: the boxes that it found beforehand, where a loss compares them.
    """

    spec: DetectorSpec
    network: Detector | None = None
    views: Views | None = None
    frozen: tuple[Detector, ...] = ()
    taught: Taught | None = None

    @abstractmethod
    def outputs(
        self, batch: Batch, wanted: frozenset[Knowledge], rois: Rois | None = None
    ) -> Outputs:
        """Return what is `wanted` for a batch, without gradient; see `Detector.forward`."""

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the pyramid of further images (B, 3, H, W), without gradient.

        Raises:
            ValueError: outputs were computed before, for other images.
        """
        raise ValueError(f"a stored teacher has no outputs of other images, found {len(images)}")

    def task_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return the task losses on a batch with the student's labels.

        Raises:
            ValueError: outputs were computed before.
        """
        raise ValueError(f"a stored teacher has no losses for {len(batch.images)} images")


class LiveTeacher(Teaching):
    """A frozen network, always in eval mode.

    It runs under `no_grad`, not `inference_mode`: its tensors could not be saved for backward
    without copies, and the time is the same.

    Args:
        network: the teacher; left as it is but for its mode.
        student: spec of the student.
        precision: number format of a forward pass.
        size: height and width of the input, pixels; with it, a faster copy runs in place of
            `network`, equal but for rounding (see `folded`).
    """

    network: Detector

    def __init__(
        self,
        network: Detector,
        student: DetectorSpec,
        precision: TeacherPrecision = "train",
        taught: Taught | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.network, self.precision = network.eval().requires_grad_(False), precision
        self.taught = taught
        self._runs = network if size is None else folded(network, size)
        self.frozen = (network,) if size is None else (network, self._runs)
        self._columns = teacher_columns(student, network.spec)
        self.spec = as_seen_by(student, network.spec)

    def outputs(
        self, batch: Batch, wanted: frozenset[Knowledge], rois: Rois | None = None
    ) -> Outputs:
        """See `Teaching.outputs`."""
        columns = self._columns
        with torch.no_grad(), self._arithmetic(batch.images):
            outputs: Outputs
            if columns is None:
                outputs = self._ready()(batch, wanted, rois=rois)
                return outputs
            if rois is not None:
                rois = rois_in_teachers_classes(rois, columns, self.network.spec.num_classes)
            outputs = self._ready()(in_teachers_classes(batch, columns), wanted, rois=rois)
            return choose_classes(outputs, columns)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Teaching.maps`."""
        with torch.no_grad(), self._arithmetic(images):
            return self._ready().maps(images)

    def task_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """See `Teaching.task_losses`; gradients reach the images."""
        columns = self._columns
        with self._arithmetic(batch.images):
            known = batch if columns is None else in_teachers_classes(batch, columns)
            losses: dict[str, Tensor] = self._ready()(known, TASK).task_losses
            return losses

    def _ready(self) -> Detector:
        return self._runs.eval()  # the caller may have changed the mode

    def _arithmetic(self, images: Tensor) -> contextlib.AbstractContextManager[object]:
        if self.precision == "train":
            return contextlib.nullcontext()
        device = images.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16")
