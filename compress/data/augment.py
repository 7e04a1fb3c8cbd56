"""Change a letterboxed picture and its boxes together, the same way for the same (seed, index)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator

from export.config import NonNegativeFloat, Section

Zoom = Annotated[float, Field(ge=0.01, le=100)]
Probability = Annotated[float, Field(ge=0, le=1)]

OF_LABELS = -1.0  # in place of a score
_MOSAIC_CENTRE = (0.3, 0.7)  # centre of a mosaic, as shares of the side


class AugmentConfig(Section):
    """Augmentation of the training pictures.

    Attributes:
        flip: probability of mirroring left and right.
        vertical_flip: probability of mirroring top and bottom.
        transpose: probability of swapping rows and columns; needs a square input.
        scale: smallest and largest zoom; above 1 crops, below 1 pads.
        color: strength of brightness, contrast and saturation; hue changes by a quarter of it.
        mosaic: probability that four pictures share one canvas.
        close_mosaic: share of the training, at its end, without mosaics.
        min_box_px: boxes with a shorter side, in input pixels, are left out of training.
        min_visible: boxes of which a crop leaves less than this share are left out.
    """

    flip: Probability = 0.5
    vertical_flip: Probability = 0.0
    transpose: Probability = 0.0
    scale: tuple[Zoom, Zoom] = (1.0, 1.0)
    color: Annotated[float, Field(ge=0, le=1)] = 0.0
    mosaic: Probability = 0.0
    close_mosaic: Probability = 0.0
    min_box_px: NonNegativeFloat = 2.0
    min_visible: Probability = 0.25

    def mosaic_steps(self, total: int) -> int:
        """Return how many of `total` steps, from the first on, may have mosaics."""
        return total - round(self.close_mosaic * total)

    @field_validator("close_mosaic", mode="before")
    @classmethod
    def _a_share(cls, value: object) -> object:
        if isinstance(value, int | float) and value > 1:
            raise ValueError(
                f"a share of the training is expected, 0 to 1; found {value:g}. The last 10 of 100 "
                "epochs are 0.1"
            )
        return value

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("the smallest zoom comes first, as in [0.5, 1.5]")
        return scale


@dataclass(frozen=True)
class Sample:
    """One picture ready for training.

    Attributes:
        pixels: (H, W, 3) uint8 canvas; the picture at the top left, `fill` elsewhere.
        boxes: (n, 4) float32 xyxy, input pixels: the set's own and those of a teacher alike.
        labels: (n,) int64.
        height: height of the picture inside the canvas, pixels.
        width: width of the picture inside the canvas, pixels.
        scores: (n,) float32, 0..1 of a teacher's box, `OF_LABELS` of the set's own; None where all
            are the set's own.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    height: int
    width: int
    scores: NDArray[np.float32] | None = None

    def scored(self) -> NDArray[np.float32]:
        """Return `scores`, also where it is None."""
        if self.scores is None:
            return np.full(len(self.labels), OF_LABELS, np.float32)
        return self.scores

    def only(self, kept: NDArray[np.bool_]) -> "Sample":
        """Return the sample with the boxes that `kept` (n,) marks."""
        scores = None if self.scores is None else self.scores[kept]
        return replace(self, boxes=self.boxes[kept], labels=self.labels[kept], scores=scores)


def augment(
    sample: Sample,
    config: AugmentConfig,
    rng: np.random.Generator,
    another: Callable[[int], Sample],
    fill: int = 114,
) -> Sample:
    """Apply mosaic, colour, zoom and mirroring, in this order.

    Args:
        sample: never changed in place.
        config: what may happen.
        rng: the only source of randomness.
        another: returns an unchanged sample of the same set for a non-negative number; for mosaic.
        fill: grey value outside the picture.
    """
    chance = rng.random(4)
    if chance[0] < config.mosaic:
        others = [another(int(number)) for number in rng.integers(0, 2**31, 3)]
        sample = _mosaic([sample, *others], config, rng)
    if config.color > 0:
        sample = _recolour(sample, config.color, rng)
    if config.scale != (1.0, 1.0):
        sample = _zoom(sample, config, rng, fill)
    sample = _mirror(
        sample,
        chance[1] < config.flip,
        chance[2] < config.vertical_flip,
        chance[3] < config.transpose,
        fill,
    )
    return _without_slivers(sample, config.min_box_px)


def _mirror(sample: Sample, across: bool, down: bool, swap: bool, fill: int) -> Sample:
    if not (across or down or swap):
        return sample
    height, width = sample.height, sample.width
    inner = sample.pixels[:height, :width]
    boxes = sample.boxes
    if across:
        inner = inner.take(np.arange(width - 1, -1, -1), axis=1)  # twice as fast as [:, ::-1]
        boxes = np.array([width, 0, width, 0], np.float32) + boxes[:, [2, 1, 0, 3]] * _ACROSS
    if down:
        inner = inner[::-1]
        boxes = np.array([0, height, 0, height], np.float32) + boxes[:, [0, 3, 2, 1]] * _DOWN
    if swap:
        inner = inner.transpose(1, 0, 2)
        boxes = boxes[:, [1, 0, 3, 2]]
        height, width = width, height
    pixels = np.full_like(sample.pixels, fill)
    pixels[:height, :width] = inner
    return replace(sample, pixels=pixels, boxes=boxes, height=height, width=width)


_ACROSS = np.array([-1, 1, -1, 1], dtype=np.float32)
_DOWN = np.array([1, -1, 1, -1], dtype=np.float32)


def _zoom(sample: Sample, config: AugmentConfig, rng: np.random.Generator, fill: int) -> Sample:
    """Zoom by a log-uniform factor; the picture keeps its place and size in the canvas."""
    low, high = np.log(config.scale)
    factor = float(np.exp(rng.uniform(low, high)))
    shift = rng.random(2)
    height, width = sample.height, sample.width
    inner = Image.fromarray(sample.pixels[:height, :width])
    canvas = sample.pixels.copy()
    if factor >= 1:  # the window of the source that fills the whole picture
        window = np.array([width, height]) / factor
        corner = shift * (np.array([width, height]) - window)
        box = (*corner, *(corner + window))
        zoomed = inner.resize((width, height), Image.Resampling.BILINEAR, box=box)
        canvas[:height, :width] = np.asarray(zoomed)
        offset = -corner * factor
        scales = np.array([factor, factor])
    else:
        small = np.maximum(1, np.round(np.array([width, height]) * factor)).astype(int)
        offset = np.floor(shift * (np.array([width, height]) - small + 1))
        x, y = (int(value) for value in offset)
        zoomed = inner.resize((int(small[0]), int(small[1])), Image.Resampling.BILINEAR)
        canvas[:height, :width] = fill
        canvas[y : y + small[1], x : x + small[0]] = np.asarray(zoomed)
        scales = small / np.array([width, height])
    boxes = sample.boxes * np.tile(scales, 2) + np.tile(offset, 2)
    boxes, keep = _cropped(boxes, (0, 0, width, height), config.min_visible)
    return replace(sample, pixels=canvas, boxes=boxes).only(keep)


def _mosaic(samples: list[Sample], config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """Fill the four quarters of a canvas, each with a window of its own picture."""
    height, width = samples[0].pixels.shape[:2]
    x = round(width * rng.uniform(*_MOSAIC_CENTRE))
    y = round(height * rng.uniform(*_MOSAIC_CENTRE))
    quarters = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    canvas = np.empty_like(samples[0].pixels)
    boxes: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    scores: list[NDArray[np.float32]] = []
    for sample, (left, top, right, bottom) in zip(samples, quarters, strict=True):
        size = np.array([right - left, bottom - top])
        whole = np.array([sample.width, sample.height])
        least = float((size / whole).max())  # the smallest zoom that leaves no gap
        factor = least if least >= 1 else float(rng.uniform(least, 1))
        window = np.minimum(size / factor, whole)
        corner = rng.random(2) * (whole - window)
        part = Image.fromarray(sample.pixels[: sample.height, : sample.width]).resize(
            (int(size[0]), int(size[1])),
            Image.Resampling.BILINEAR,
            box=(*corner, *np.minimum(corner + window, whole)),
        )
        canvas[top:bottom, left:right] = np.asarray(part)
        moved = (sample.boxes - np.tile(corner, 2)) * np.tile(size / window, 2)
        moved += [left, top, left, top]
        clipped, keep = _cropped(moved, (left, top, right, bottom), config.min_visible)
        boxes.append(clipped[keep])
        labels.append(sample.labels[keep])
        scores.append(sample.scored()[keep])
    rows = np.concatenate(boxes), np.concatenate(labels)
    return Sample(canvas, *rows, height, width, np.concatenate(scores))


def _cropped(
    boxes: NDArray[np.floating], window: tuple[float, float, float, float], min_visible: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Clip (n, 4) boxes to a window; the mask marks those that keep enough of their area."""
    low, high = np.tile(window[:2], 2), np.tile(window[2:], 2)
    clipped = np.clip(boxes, low, high)
    before = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    after = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1)
    keep = (after > 0) & (after >= min_visible * before * (1 - 1e-6))
    return clipped.astype(np.float32), keep


def _recolour(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    from torchvision.transforms.v2 import functional  # loads torch's compiler: a second

    # As a Pillow picture: torchvision then works in one thread, outside torch's own pool.
    picture = Image.fromarray(sample.pixels[: sample.height, : sample.width])
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, 3)
    hue = rng.uniform(-strength / 4, strength / 4)
    picture = functional.adjust_brightness(picture, float(factors[0]))
    picture = functional.adjust_contrast(picture, float(factors[1]))
    picture = functional.adjust_saturation(picture, float(factors[2]))
    picture = functional.adjust_hue(picture, float(hue))
    pixels = sample.pixels.copy()
    pixels[: sample.height, : sample.width] = np.asarray(picture)
    return replace(sample, pixels=pixels)


def _without_slivers(sample: Sample, least: float) -> Sample:
    shorter = (sample.boxes[:, 2:] - sample.boxes[:, :2]).min(axis=1)
    keep = (shorter >= least) & (shorter > 0)
    return sample if keep.all() else sample.only(keep)
