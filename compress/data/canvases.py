"""Letterboxed pictures in memory that processes share."""

import mmap
import multiprocessing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.data.image_set import ImageSet, read_canvas
from compress.data.augment import OF_LABELS, Sample
from compress.data.taught import TaughtPictures
from export.pictures.images import Letterbox, fit

FILL = 114


class CanvasCache:
    """Letterboxed pictures of one set; the first of them, as many as fit, are decoded once.

    Processes that are forked from this one fill and read the same memory. An anonymous map is
    used rather than `/dev/shm`, which containers keep small.

    Attributes:
        bytes: memory of the kept pictures.
    """

    def __init__(
        self,
        image_set: ImageSet,
        height: int,
        width: int,
        budget_bytes: int,
        fill: int = FILL,
        *,
        fast_decode: bool = False,
        taught: TaughtPictures | None = None,
    ) -> None:
        self.image_set, self.taught = image_set, taught
        self.height, self.width, self.fill = height, width, fill
        self.fast_decode = fast_decode
        each = height * width * 3
        self._kept = min(len(image_set), budget_bytes // each)
        self.bytes = self._kept * each
        memory = _shared_bytes(self.bytes + self._kept + 1)  # mapping 0 bytes is an error
        self._canvases = memory[: self.bytes].view(self._kept, height, width, 3)
        self._filled = memory[self.bytes :]

    def place(self, index: int) -> Letterbox:
        """Return where picture `index` lies in its canvas."""
        image = self.image_set.images[index]
        return fit(image.width, image.height, self.height, self.width)

    def canvas(self, index: int) -> NDArray[np.uint8]:
        """Return the (H, W, 3) uint8 canvas of picture `index`; not to be written to.

        Raises:
            DataError: the picture cannot be read.
        """
        if index >= self._kept:
            return self._read(index)
        kept: NDArray[np.uint8] = self._canvases[index].numpy()
        if not self._filled[index]:
            kept[:] = self._read(index)
            self._filled[index] = 1  # last, so that no process sees half a picture
        return kept

    def sample(self, index: int) -> Sample:
        """Return picture `index` with its boxes in input pixels; crowd boxes are left out.

        What a teacher found on it follows the set's own boxes.
        """
        image, place = self.image_set.images[index], self.place(index)
        alone = ~image.crowd
        boxes, labels, scores = image.boxes[alone], image.labels[alone], None
        if self.taught is not None:
            found = self.taught.of(index)
            scores = np.concatenate(
                [np.full(len(labels), OF_LABELS, np.float32), found.scores.numpy()]
            )
            boxes = np.concatenate([boxes, found.boxes.numpy()])
            labels = np.concatenate([labels, found.labels.numpy()])
        limits = np.array([place.width, place.height] * 2, dtype=np.float32)
        inside = np.clip(place.to_input(boxes), 0, limits)
        return Sample(self.canvas(index), inside, labels, place.height, place.width, scores)

    def _read(self, index: int) -> NDArray[np.uint8]:
        return read_canvas(
            self.image_set,
            index,
            self.height,
            self.width,
            self.fill,
            fast_decode=self.fast_decode,
        )[0]


def _shared_bytes(count: int) -> Tensor:
    """Return zeroed bytes that child processes share."""
    if multiprocessing.get_start_method() == "fork":
        return torch.frombuffer(mmap.mmap(-1, count), dtype=torch.uint8)
    shared: Tensor = torch.zeros(count, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
    return shared
