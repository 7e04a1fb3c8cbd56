"""Pictures drawn by code: geometric shapes, textured, rotated, overlapping, in any number.

Every picture is a function of (seed, stream, index), where the stream is the split, so splits
never share a picture. A box is tight on the whole shape as if nothing covered it, clipped to the
picture; a shape of which less than `_VISIBLE` can be seen is drawn but not labelled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.data.annotations import RawObject, ReadingNotes
from benchmarks.data.image_set import ImageSet, LabeledImage, Reindexed, labeled_image
from benchmarks.data.parts.frames import Frame
from benchmarks.data.textures import background, camouflaged, fill_pixels, strokes
from export.errors import DataError, counted

Difficulty = Literal["standard", "hard"]
STREAMS = {"train": 0, "val": 1, "test": 2, "unlabeled": 3}

_VISIBLE = 0.35  # of the shape's area
_FINE = 2  # subpixels per pixel and direction, so that edges are smooth
_ROUND = 40  # corners that draw a circle


@dataclass(frozen=True)
class ShapeStyle:
    """Settings of one difficulty; sizes are fractions of the shorter side."""

    classes: tuple[str, ...]
    objects: tuple[int, int]  # fewest, most
    radius: tuple[float, float]
    overlap: float  # centres are no closer than this times the sum of the radii
    textured: float  # share of fills that are not flat
    camouflage: float  # share of shapes that take colours near the background's


_SIX = ("disk", "ring", "square", "triangle", "star", "cross")
STYLES: dict[Difficulty, ShapeStyle] = {
    "standard": ShapeStyle(_SIX, (3, 9), (0.065, 0.17), 0.6, 0.5, 0.0),
    "hard": ShapeStyle((*_SIX, "pentagon", "crescent"), (6, 16), (0.04, 0.12), 0.5, 0.75, 0.3),
}


class Shape(NamedTuple):
    """One placed shape."""

    label: int
    outline: NDArray[np.float64]  # (n, 2) corners, pixels
    radius: float  # of the circle around it before it was stretched, pixels


def unit_outline(name: str) -> NDArray[np.float64]:
    """Corners (n, 2) of a shape that fits the unit circle; a ring runs out, then back inside."""
    turn = 2 * np.pi * np.arange(_ROUND + 1) / _ROUND
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    corners = {"triangle": 3, "square": 4, "pentagon": 5}
    if name in corners:
        return _polygon(corners[name])
    if name == "disk":
        return circle[:-1]
    if name == "ring":
        return np.concatenate([circle, 0.55 * circle[::-1]])
    if name == "star":
        points = _polygon(10)
        points[1::2] *= 0.42
        return points
    if name == "crescent":
        outer = circle[: _ROUND * 3 // 4 + 1]
        return np.concatenate([outer, (outer * 0.72 + 0.2)[::-1]])
    arm = 0.32  # a cross
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
    turns = [np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), k) for k in range(4)]
    return np.concatenate([quarter @ matrix for matrix in turns])


def _polygon(corners: int) -> NDArray[np.float64]:
    turn = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


@lru_cache
def _outlines(classes: tuple[str, ...]) -> tuple[NDArray[np.float64], ...]:
    return tuple(unit_outline(name) for name in classes)


@lru_cache
def _areas(classes: tuple[str, ...]) -> tuple[float, ...]:
    """Areas of the unit outlines; stretching keeps them."""
    areas = []
    for x, y in (outline.T for outline in _outlines(classes)):
        areas.append(abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2)
    return tuple(areas)


@lru_cache(maxsize=600)  # validation pictures are asked for again and again
def _drawn(painter: "ShapePainter", index: int) -> NDArray[np.uint8]:
    picture = painter.draw(index)
    picture.flags.writeable = False
    return picture


@dataclass(frozen=True)
class ShapePainter:
    """Draws picture `index` of one stream: `painter(index)` is (height, width, 3) uint8 RGB."""

    seed: int
    stream: int
    height: int
    width: int
    difficulty: Difficulty

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """Draw one picture, or return the last one drawn again; read-only for the caller."""
        return _drawn(self, index)

    def draw(self, index: int) -> NDArray[np.uint8]:
        """Draw one picture."""
        style = STYLES[self.difficulty]
        shapes = self.scene(index)
        rng = self._rng(index, 1)
        canvas = background(rng, self.height, self.width)
        strokes(rng, canvas)
        for shape in shapes:
            self._paint(canvas, shape, style, rng)
        noise = rng.standard_normal((self.height, self.width), dtype=np.float32)
        canvas += noise[..., None] * rng.uniform(2, 9)
        return np.clip(canvas, 0, 255).astype(np.uint8)

    def scene(self, index: int) -> list[Shape]:
        """Place the shapes of one picture, the lowest first."""
        style = STYLES[self.difficulty]
        rng = self._rng(index, 0)
        side = min(self.height, self.width)
        outlines = _outlines(style.classes)
        wanted = int(rng.integers(style.objects[0], style.objects[1] + 1))
        centres: list[tuple[float, float, float]] = []
        shapes: list[Shape] = []
        for _ in range(3 * wanted):
            if len(shapes) == wanted:
                break
            u = rng.random(6).tolist()
            radius = side * style.radius[0] * (style.radius[1] / style.radius[0]) ** u[0]
            margin = 0.7 * radius  # a shape may leave the picture by a little
            x = margin + (self.width - 2 * margin) * u[1]
            y = margin + (self.height - 2 * margin) * u[2]
            if any(
                math.hypot(x - other_x, y - other_y) < style.overlap * (radius + other_radius)
                for other_x, other_y, other_radius in centres
            ):
                continue
            centres.append((x, y, radius))
            label = int(u[3] * len(outlines))
            stretch = math.sqrt(0.8 + 0.45 * u[4])  # the square root of the aspect
            across, down = radius * stretch, radius / stretch
            cos, sin = math.cos(2 * math.pi * u[5]), math.sin(2 * math.pi * u[5])
            matrix = np.array([[cos * across, sin * across], [-sin * down, cos * down]])
            shapes.append(Shape(label, outlines[label] @ matrix + (x, y), radius))
        return shapes

    def objects(self, index: int) -> list[RawObject]:
        """Return the labels of one picture: the shapes of which enough can be seen."""
        shapes = self.scene(index)
        owner = Image.new("L", (self.width, self.height))
        draw = ImageDraw.Draw(owner)
        for number, shape in enumerate(shapes, 1):
            draw.polygon(shape.outline.ravel().tolist(), fill=number)
        seen = owner.histogram()
        areas = _areas(STYLES[self.difficulty].classes)
        found = []
        for number, shape in enumerate(shapes, 1):
            if seen[number] >= _VISIBLE * areas[shape.label] * shape.radius**2:
                x1, y1 = shape.outline.min(axis=0).tolist()
                x2, y2 = shape.outline.max(axis=0).tolist()
                found.append(RawObject((x1, y1, x2, y2), shape.label, where=f"shape {number}"))
        return found

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.stream, index, purpose, 1])

    def _paint(
        self,
        canvas: NDArray[np.float32],
        shape: Shape,
        style: ShapeStyle,
        rng: np.random.Generator,
    ) -> None:
        """Lay one filled shape on the (H, W, 3) canvas, in place."""
        low = np.maximum(np.floor(shape.outline.min(axis=0)).astype(int), 0)
        limit = np.array([self.width, self.height])
        high = np.minimum(np.ceil(shape.outline.max(axis=0)).astype(int) + 1, limit)
        width, height = (high - low).tolist()
        mask = Image.new("L", (width * _FINE, height * _FINE))
        corners = ((shape.outline - low) * _FINE).ravel().tolist()
        ImageDraw.Draw(mask).polygon(corners, fill=255)
        cover = np.asarray(mask.reduce(_FINE), dtype=np.float32)[..., None] / 255
        part = canvas[low[1] : high[1], low[0] : high[0]]
        hue = shape.label / len(style.classes)
        near = camouflaged(part, rng) if rng.random() < style.camouflage else None
        fill = fill_pixels(rng, height, width, hue, style.textured, near)
        part += (fill - part) * cover


class PlacedImages(Sequence[LabeledImage]):
    """The entries of drawn pictures; the objects of each are placed when first asked for.

    Placing thousands takes a second or two, which counting them alone does not need. Pictures to
    be used without labels have no objects.
    """

    def __init__(
        self, painter: ShapePainter, prefix: str, numbers: Sequence[int], *, labeled: bool
    ) -> None:
        self.painter, self.prefix, self.numbers = painter, prefix, tuple(numbers)
        self.labeled = labeled
        self._placed: dict[int, LabeledImage] = {}

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> LabeledImage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LabeledImage, ...]: ...
    def __getitem__(self, index: int | slice) -> LabeledImage | tuple[LabeledImage, ...]:
        """Return one entry, or several."""
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        number = self.numbers[index]
        if number not in self._placed:
            frame = Frame(self.painter.width, self.painter.height)
            # every shape overlaps the picture: no box is ever left out, so there is no note
            self._placed[number] = labeled_image(
                number + 1,
                self._name(number),
                frame,
                self.painter.objects(number) if self.labeled else (),
                ReadingNotes(),
            )
        return self._placed[number]

    def names(self) -> list[str]:
        """Return the name of every picture, which states how it is drawn; places nothing."""
        return [self._name(number) for number in self.numbers]

    def _name(self, number: int) -> str:
        return f"{self.prefix}/{number:06d}"


def shapes_set(
    split: str,
    numbers: Sequence[int],
    height: int,
    width: int,
    seed: int,
    difficulty: Difficulty,
    *,
    labeled: bool = True,
) -> ImageSet:
    """Describe the drawn pictures of these `numbers`; objects and pixels are made on demand.

    Without `labeled` the same pictures have no objects.

    Raises:
        DataError: `split` is not a stream.
    """
    if split not in STREAMS:
        raise DataError(
            f"shapes: no split {split!r}; drawn data has {', '.join(STREAMS)}, each as long as "
            "`count` says"
        )
    style = STYLES[difficulty]
    painter = ShapePainter(seed, STREAMS[split], height, width, difficulty)
    prefix = f"shapes/{difficulty}-{height}x{width}-{seed}/{split}"
    return ImageSet(
        name=split,
        source=(
            f"shapes ({difficulty}), seed {seed}, split {split}, "
            f"{counted(len(numbers), 'drawn picture')}"
        ),
        classes=style.classes,
        category_ids=tuple(range(1, len(style.classes) + 1)),
        images=PlacedImages(painter, prefix, numbers, labeled=labeled),
        draw=Reindexed(painter, tuple(numbers)),
    )
