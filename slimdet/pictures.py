"""Read pictures given as paths, folders, arrays or PIL pictures."""

from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.errors import DataError
from export.pictures.calibration import picture_files
from export.pictures.depth import UnusableError, planes_to_bytes
from export.pictures.images import picture_pixels
from slimdet.arguments import a_path

Picture: TypeAlias = str | PathLike[str] | NDArray[Any] | Image.Image
EXPECTED = "expected a path, an array, a PIL picture, or a list of them"
SHAPES = "(H, W, 3) RGB, (H, W) grey or (H, W, 4) RGB with alpha, channels last"


def listed(source: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """Return the input as a list of pictures; a single one becomes a list of one.

    Raises:
        DataError: it is neither a picture nor a list of them.
    """
    if isinstance(source, str | PathLike | np.ndarray | Image.Image):
        return [source]
    if isinstance(source, Iterable) and not isinstance(source, bytes | bytearray | Mapping):
        return source
    raise DataError(f"{_kind(source)} is not a picture; {EXPECTED}")


def read_pictures(given: Picture, depth: int | None = None) -> list[Path] | list[NDArray[np.uint8]]:
    """Return the files of a path, or one array or PIL picture as upright (H, W, 3) RGB.

    Args:
        given: one path, array or PIL picture.
        depth: bits in use of 16-bit values, see `export.pictures.images.open_photograph`.

    Raises:
        DataError: it cannot be read as a picture.
    """
    if isinstance(given, Image.Image):
        name = str(getattr(given, "filename", "")) or "a PIL picture"
        if not all(given.size):
            width, height = given.size
            raise DataError(
                f"{name} of {width} x {height} pixels holds none; expected at least one pixel"
            )
        return [picture_pixels(given, name, depth)]
    if isinstance(given, np.ndarray):
        return [array_pixels(given, depth)]
    if not isinstance(given, str | PathLike):
        raise DataError(f"{_kind(given)} is not a picture; {EXPECTED}")
    if not fspath(given):
        raise DataError("an empty path is not a picture; name a file or a folder")
    path = a_path(given, "path", DataError)
    return picture_files(path) if path.is_dir() else [path]


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def array_pixels(values: NDArray[Any], depth: int | None = None) -> NDArray[np.uint8]:
    """Return an array as (H, W, 3) uint8 RGB.

    Args:
        values: uint8, uint16 (read as 16-bit files are), or floats in 0..1; grey, RGB, or RGB with
            alpha, which is laid on black as in files.
        depth: bits in use of uint16, see `export.pictures.images.open_photograph`.

    Raises:
        DataError: the shape or the type is not supported, or floats are not in 0..1.
    """
    values = np.asarray(values)  # an array of a subclass, such as a matrix, has rules of its own
    shown = f"a picture of shape {values.shape} and type {values.dtype}"
    planes = values[..., None] if values.ndim == 2 else values
    if planes.ndim != 3 or planes.shape[2] not in {1, 3, 4} or not planes.size:
        raise DataError(f"{shown}; expected {SHAPES}; several pictures as a list")
    pixels = _to_bytes(planes, shown, depth)
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 4:
        return picture_pixels(Image.fromarray(np.ascontiguousarray(pixels)), shown)
    return pixels


def _to_bytes(planes: NDArray[Any], shown: str, depth: int | None) -> NDArray[np.uint8]:
    if planes.dtype == np.uint8:
        return planes
    if planes.dtype == np.uint16:
        try:
            return planes_to_bytes(planes, depth)
        except UnusableError as error:
            raise DataError(f"{shown}: {error}") from None
    if not np.issubdtype(planes.dtype, np.floating):
        raise DataError(f"{shown}; expected uint8, uint16, or floats in 0..1")
    low, high_value = float(planes.min()), float(planes.max())
    if not 0 <= low <= high_value <= 1:  # false for NaN, too
        raise DataError(
            f"{shown} with values in {low:g}..{high_value:g}; expected floats in 0..1 (values in "
            "0..255: pixels.astype(np.uint8))"
        )
    scaled: NDArray[np.uint8] = np.rint(planes * 255).astype(np.uint8)
    return scaled
