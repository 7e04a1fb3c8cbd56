"""Calibration inputs from real pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import InputSpec
from export.errors import DataError
from export.pictures.files import USUAL, pictures_below
from export.pictures.images import Images, read_canvas, to_input


def calibration_batches(
    canvases: Sequence[NDArray[np.uint8]], spec: InputSpec, batch: int = 1
) -> Iterator[dict[str, Images]]:
    """Yield named inputs of `batch` letterboxed (H, W, 3) pictures; drop an incomplete batch."""
    for start in range(0, len(canvases) - batch + 1, batch):
        yield {spec.name: to_input(canvases[start : start + batch], spec)}


def picture_files(folder: Path) -> list[Path]:
    """Return the picture files of `folder` and its subfolders, also behind links, sorted.

    Raises:
        DataError: it is no folder, or holds no picture.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; a folder of pictures was expected here")
    files = pictures_below(folder)
    if not files:
        raise DataError(f"{folder}: no pictures in it or its subfolders ({USUAL} and others)")
    return files


def calibration_canvases(
    folder: Path, spec: InputSpec, count: int, seed: int
) -> list[NDArray[np.uint8]]:
    """Letterbox `count` pictures of `folder`, chosen by `seed`; all where there are fewer.

    Raises:
        DataError: the folder holds no picture, or one of the chosen is broken.
    """
    files = picture_files(folder)
    order = np.random.default_rng(seed).permutation(len(files))[:count]
    return [
        read_canvas(files[index], spec.height, spec.width, spec.fill, spec.bit_depth)[0]
        for index in sorted(order)
    ]
