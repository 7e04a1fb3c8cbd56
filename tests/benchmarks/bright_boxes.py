"""A detector small enough to read: it finds one bright rectangle, and its colour is its class."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from benchmarks.data.image_set import ImageSet, LabeledImage
from export.artifact.manifest import InputSpec, Manifest
from export.detections import Candidates
from export.pictures.images import Images

CLASSES = ("red", "green")
CATEGORY_IDS = (7, 3)  # neither in order nor from 0


def bright_manifest(
    *, classes: tuple[str, ...] = CLASSES, dynamic_batch: bool = True, side: int = 64
) -> Manifest:
    return Manifest(
        model="student",
        family="bright",
        backend="numpy",
        precision="fp32",
        parameters=0,
        input=InputSpec(height=side, width=side, fill=0, dynamic_batch=dynamic_batch),
        classes=classes,
        category_ids=tuple(range(len(classes))),
    )


class BrightEngine:
    """Returns the extent of what is brighter than one half; score 0.9.

    Attributes:
        delay_ms: how long each call sleeps.
        sleep: function that sleeps, given seconds; a `Clock`'s takes no time.
        batches: size of every batch it was given.
    """

    def __init__(
        self,
        manifest: Manifest | None = None,
        *,
        delay_ms: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._manifest = manifest or bright_manifest()
        self.delay_ms, self.sleep = delay_ms, sleep
        self.batches: list[int] = []
        self.open = False

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def device(self) -> str:
        return "cpu"

    def candidates(self, images: Images) -> Candidates:
        assert images.dtype == np.float32
        self.batches.append(len(images))
        self.sleep(self.delay_ms / 1e3)
        found = [self._one(image) for image in images]
        return Candidates(
            np.array([[box] for box, _, _ in found], dtype=np.float32),
            np.array([[score] for _, score, _ in found], dtype=np.float32),
            np.array([[label] for _, _, label in found], dtype=np.int32),
        )

    def _one(self, image: Images) -> tuple[list[float], float, int]:
        bright = image > 0.5  # (3, H, W)
        if not bright.any():
            return [0.0, 0.0, 0.0, 0.0], -1.0, 0
        rows, columns = np.where(bright.any(axis=0))
        colour = ("red", "green", "blue")[int(bright.sum(axis=(1, 2)).argmax())]
        box = [columns.min(), rows.min(), columns.max() + 1.0, rows.max() + 1.0]
        return [float(edge) for edge in box], 0.9, self._manifest.classes.index(colour)

    def __enter__(self) -> Self:
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False


class Clock:
    """A clock that only sleeping moves, so that a timing is the same number on every machine.

    Put `read` in the place of `time.perf_counter_ns`, and let engines sleep by `sleep`. With
    `step_ns` every reading moves it too: what is repeated for a second ends after few calls.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self.step_ns = 0

    def read(self) -> int:
        self.now_ns += self.step_ns
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(1e9 * seconds)


def bright_set(count: int = 5, *, width: int = 64, height: int = 48) -> ImageSet:
    """`count` black pictures with one rectangle each, red and green in turn."""
    boxes = [(4 + 2 * i, 6 + i, 24 + 3 * i, 30 + i) for i in range(count)]

    def draw(index: int) -> NDArray[np.uint8]:
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        left, top, right, bottom = boxes[index]
        pixels[top:bottom, left:right, index % 2] = 255
        return pixels

    images = tuple(
        LabeledImage(
            id=100 + i,
            file_name=f"bright/{i}",
            width=width,
            height=height,
            boxes=np.array([box], dtype=np.float64),
            labels=np.array([i % 2]),
            crowd=np.zeros(1, dtype=np.bool_),
            areas=np.array([(box[2] - box[0]) * (box[3] - box[1])], dtype=np.float64),
        )
        for i, box in enumerate(boxes)
    )
    return ImageSet("val", "bright boxes", CLASSES, CATEGORY_IDS, images, (), draw)
