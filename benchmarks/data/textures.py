"""Colours and textures of the drawn pictures. Pixels are float32 RGB in 0..255."""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_HUE_SPREAD = 0.14  # turns; wide enough that colour is a weak cue of the class
_HUE_INFORMED = 0.7  # share of shapes whose hue depends on the class at all


def fill_pixels(
    rng: np.random.Generator,
    height: int,
    width: int,
    class_hue: float,
    textured: float,
    near: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Fill (height, width, 3) flat, with a gradient, noise or stripes.

    Args:
        rng: source of all randomness.
        height: pixels.
        width: pixels.
        class_hue: 0..1, the mean of the weak colour cue.
        textured: probability that the fill is not flat.
        near: (3,) a colour to stay close to instead of the class's, for camouflage.
    """
    hue = rng.normal(class_hue, _HUE_SPREAD) if rng.random() < _HUE_INFORMED else rng.random()
    first = _colour(rng, hue) if near is None else near
    if rng.random() >= textured:
        return np.broadcast_to(first, (height, width, 3))
    kind = rng.integers(3)
    if kind == 0:
        second = _nearby(rng, first, 70)
        blend: NDArray[np.float32] = first + (second - first) * _ramp(rng, height, width)
        return blend
    if kind == 1:
        grain = rng.standard_normal((height, width, 1), dtype=np.float32)
        grainy: NDArray[np.float32] = first + grain * np.float32(rng.uniform(12, 35))
        return grainy
    second = _nearby(rng, first, 80)
    period = rng.uniform(4, 9)
    waves = np.sin(_distance(rng, height, width) * np.float32(2 * np.pi / period))
    return np.where(waves > 0, first, second)


def camouflaged(under: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a (3,) colour not far from the mean of the (h, w, 3) pixels under a shape."""
    shift = rng.choice([-1, 1]) * rng.uniform(22, 45)
    colour: NDArray[np.float32] = under.mean(axis=(0, 1)) + np.float32(shift)
    return np.clip(colour, 0, 255)


def background(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Make a (height, width, 3) canvas: flat, gradient, coarse noise, stripes or checker."""
    first = _colour(rng, rng.random(), saturation=(0.05, 0.5))
    second = _nearby(rng, first, 50)
    kind = rng.integers(5)
    if kind == 0:
        mix = np.full((height, width, 1), rng.random(), dtype=np.float32)
    elif kind == 1:
        mix = _ramp(rng, height, width)
    elif kind == 2:
        cells = rng.random((6, 6), dtype=np.float32)
        smooth = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
        mix = np.asarray(smooth)[..., None]
    elif kind == 3:
        period = rng.uniform(6, 24)
        waves = np.sin(_distance(rng, height, width) * np.float32(2 * np.pi / period))
        mix = (waves > 0).astype(np.float32)
    else:
        cell = int(rng.integers(5, 18))
        rows, columns = np.arange(height) // cell, np.arange(width) // cell
        mix = ((rows[:, None] + columns) % 2).astype(np.float32)[..., None]
    return (first + (second - first) * mix).astype(np.float32)


def strokes(rng: np.random.Generator, canvas: NDArray[np.float32]) -> None:
    """Draw up to four lines across the (H, W, 3) canvas, in place; they are no object."""
    count = int(rng.integers(0, 5))
    if not count:
        return
    height, width = canvas.shape[:2]
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(count):
        ends = (rng.random(4) * [width, height, width, height]).tolist()
        colour = tuple(int(value) for value in _colour(rng, rng.random()))
        draw.line(ends, fill=colour, width=int(rng.integers(1, 4)))
    canvas[:] = np.asarray(picture)


def _colour(
    rng: np.random.Generator, hue: float, saturation: tuple[float, float] = (0.35, 1.0)
) -> NDArray[np.float32]:
    value = rng.uniform(0.3, 1.0)
    rgb = colorsys.hsv_to_rgb(hue % 1.0, rng.uniform(*saturation), value)
    return np.array(rgb, dtype=np.float32) * 255


def _nearby(
    rng: np.random.Generator, colour: NDArray[np.float32], reach: float
) -> NDArray[np.float32]:
    return np.clip(colour + rng.uniform(-reach, reach, 3), 0, 255).astype(np.float32)


def _distance(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Return (height, width, 1) pixels travelled along a random direction."""
    turn = rng.uniform(0, 2 * np.pi)
    rows = np.arange(height, dtype=np.float32)[:, None] * np.float32(np.sin(turn))
    columns = np.arange(width, dtype=np.float32) * np.float32(np.cos(turn))
    along: NDArray[np.float32] = rows + columns
    return along[..., None]


def _ramp(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Return (height, width, 1) values from 0 to 1 along a random direction."""
    along = _distance(rng, height, width)
    along -= along.min()
    along /= max(float(along.max()), 1.0)
    return along
