"""Photographs with the detections of each model side by side."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.accuracy.metric import CocoResult
from benchmarks.data.image_set import ImageSet, read_photograph
from export.atomic import write_bytes
from export.detections import Detections
from export.draw import draw_boxes

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

CELL = 288  # pixels per side
MARGIN = 6
HEADER = 30
BACKGROUND = (255, 255, 255)
INK = (31, 41, 55)


def sample_grid(
    images: ImageSet,
    indices: Sequence[int],
    columns: Mapping[str, Sequence[CocoResult]],
    score_threshold: float,
    out: Path,
) -> Path:
    """Draw a row per picture, a column for the ground truth and one per model; return the path.

    Args:
        images: the labelled set.
        indices: pictures to draw, one row each.
        columns: COCO results of a model over the set, by title of its column.
        score_threshold: results below it are not drawn.
        out: file to write, `.jpg` or `.png`; a JPEG is a quarter of a PNG's size.
    """
    titles = ("ground truth", *columns)
    width = len(titles) * (CELL + MARGIN) + MARGIN
    height = HEADER + len(indices) * (CELL + MARGIN)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        middle = MARGIN + column * (CELL + MARGIN) + CELL // 2
        font = ImageFont.load_default(size=16)
        pen.text((middle, HEADER // 2), _fitting(pen, title, font), INK, font, anchor="mm")
    for row, index in enumerate(indices):
        pixels = read_photograph(images, index)
        image_id = images.images[index].id
        found = [_ground_truth(images, index)] + [
            _of_picture(results, image_id, images.category_ids, score_threshold)
            for results in columns.values()
        ]
        for column, detections in enumerate(found):
            cell = _cell(pixels, detections, images.classes, show_scores=column > 0)
            corner = (
                MARGIN + column * (CELL + MARGIN) + (CELL - cell.width) // 2,
                HEADER + row * (CELL + MARGIN) + (CELL - cell.height) // 2,
            )
            sheet.paste(cell, corner)
    buffer = io.BytesIO()
    if out.suffix == ".jpg":
        sheet.save(buffer, format="JPEG", quality=88, optimize=True)
    else:
        sheet.save(buffer, format="PNG", optimize=True)
    return write_bytes(buffer.getvalue(), out)


def _fitting(pen: ImageDraw.ImageDraw, text: str, font: Font) -> str:
    """Shorten the text to the width of its column."""
    if pen.textlength(text, font) <= CELL:
        return text
    while text and pen.textlength(text + "\u2026", font) > CELL:
        text = text[:-1]
    return text + "\u2026"


def _cell(
    pixels: NDArray[np.uint8],
    detections: Detections,
    classes: Sequence[str],
    *,
    show_scores: bool,
) -> Image.Image:
    """Draw a picture and its boxes at the size of a cell."""
    height, width = pixels.shape[:2]
    scale = CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    scaled = Detections(
        (detections.boxes * scale).astype(np.float32), detections.scores, detections.labels
    )
    return Image.fromarray(draw_boxes(small, scaled, classes, show_scores=show_scores))


def _ground_truth(images: ImageSet, index: int) -> Detections:
    image = images.images[index]
    return Detections(
        image.boxes.astype(np.float32),
        np.ones(len(image.labels), dtype=np.float32),
        image.labels.astype(np.int32),
    )


def _of_picture(
    results: Sequence[CocoResult],
    image_id: int,
    category_ids: Sequence[int],
    score_threshold: float,
) -> Detections:
    kept = sorted(
        (r for r in results if r["image_id"] == image_id and r["score"] >= score_threshold),
        key=lambda result: -float(result["score"]),
    )
    boxes = np.array([result["bbox"] for result in kept], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # xywh to xyxy
    return Detections(
        boxes,
        np.array([result["score"] for result in kept], dtype=np.float32),
        np.array([category_ids.index(result["category_id"]) for result in kept], dtype=np.int32),
    )


def sample_pictures(images: ImageSet, count: int = 6) -> list[int]:
    """Return indices of pictures with objects, spread evenly over the set."""
    with_objects = [index for index, image in enumerate(images.images) if len(image.labels)]
    chosen = with_objects or list(range(len(images)))
    step = max(1, len(chosen) // count)
    return chosen[::step][:count]
