"""Draw detections onto a picture, with labels that can be read."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from export.detections import Detections

Colour = tuple[int, int, int]

# Hues far apart, each dark or light enough for its text; classes beyond them start over.
_PALETTE: tuple[Colour, ...] = (
    (230, 57, 70),
    (29, 120, 204),
    (42, 157, 73),
    (244, 162, 38),
    (131, 56, 200),
    (0, 160, 170),
    (214, 62, 160),
    (128, 100, 40),
    (150, 200, 40),
    (70, 80, 110),
)


def class_colour(label: int) -> Colour:
    """Return the colour that a class has in every picture."""
    return _PALETTE[label % len(_PALETTE)]


def draw_boxes(
    pixels: NDArray[np.uint8],
    detections: Detections,
    classes: Sequence[str],
    *,
    show_scores: bool = True,
    line_width: int | None = None,
    font_size: int | None = None,
) -> NDArray[np.uint8]:
    """Return a copy of (H, W, 3) `pixels` with boxes and labels.

    The best detection is drawn last, on top. Line and text grow with the picture unless given.

    Args:
        pixels: RGB.
        detections: boxes xyxy in pixels of this picture.
        classes: K names.
        show_scores: write the score behind the class name; off for ground truth.
        line_width: pixels.
        font_size: pixels.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    draw = ImageDraw.Draw(image)
    side = max(image.size)
    line = line_width or max(1, round(side / 320))
    font = _font(font_size or max(11, round(side / 45)))
    for index in range(len(detections.scores) - 1, -1, -1):
        label = int(detections.labels[index])
        text = classes[label]
        if show_scores:
            text = f"{text} {detections.scores[index]:.2f}"
        box = [float(value) for value in detections.boxes[index]]
        _draw_one(draw, box, text, class_colour(label), line, font)
    return np.array(image)


def _draw_one(
    draw: ImageDraw.ImageDraw,
    box: list[float],
    text: str,
    colour: Colour,
    line: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left, top, right, bottom = box
    draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
    text_left, text_top, text_right, text_bottom = draw.textbbox((0, 0), text, font=font)
    pad = max(2, line)
    width, height = text_right - text_left + 2 * pad, text_bottom - text_top + 2 * pad
    picture_width, picture_height = draw.im.size
    x = max(0.0, min(left, picture_width - width))
    y = top - height if top >= height else top  # above the box, or inside where there is no room
    y = max(0.0, min(y, picture_height - height))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 150
    ink = (0, 0, 0) if bright else (255, 255, 255)
    draw.text((x + pad - text_left, y + pad - text_top), text, fill=ink, font=font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size=size)
    except ImportError:  # a Pillow built without FreeType has one bitmap font
        return ImageFont.load_default()
