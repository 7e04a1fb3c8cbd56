"""Find the number of bits that the 16-bit pictures of a data set use."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.data.image_set import ImageSet
from export.errors import DataError, counted
from export.pictures.depth import depth_of
from export.pictures.images import wide_value

_EIGHT_BIT = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".webp"})
_LOOKED_AT = 100  # pictures of a split


def with_bit_depth(sets: Sequence[ImageSet], asked: int | None) -> list[ImageSet]:
    """Return the sets with the bits that their 16-bit pictures are read with, and a note of it.

    Up to 100 files of each set, evenly spaced, are read; formats that cannot hold 16 bits are not
    opened. All sets get the same depth, the fewest bits that hold every value seen.

    Args:
        sets: the splits of a data set.
        asked: bits that the recipe states; None takes what is found.

    Raises:
        DataError: a picture is damaged, its values are not grey levels or colours, or they have
            more bits than `asked`.
    """
    seen = [_wide_values(images.paths) for images in sets]
    for path, value in (pair for split in seen for pair in split.items()):
        if asked is not None and value >= 1 << asked:
            raise DataError(
                f"{path}: holds values up to {value}, and data.bit_depth says {asked} (0 to "
                f"{(1 << asked) - 1}); set data.bit_depth: {depth_of(value)}"
            )
    found = [list(split.values()) for split in seen]
    largest = max((value for values in found for value in values), default=None)
    depth = asked or (None if largest is None else depth_of(largest))
    return [
        replace(
            images,
            bit_depth=depth,
            notes=(*images.notes, *([_note(values, depth, asked)] if values and depth else [])),
        )
        for images, values in zip(sets, found, strict=True)
    ]


def _wide_values(paths: Sequence[Path]) -> dict[Path, int]:
    """Return the largest value of each 16-bit picture of the sample."""
    able = [path for path in paths if path.suffix.lower() not in _EIGHT_BIT]
    steps = np.linspace(0, len(able) - 1, min(len(able), _LOOKED_AT)).round().astype(int)
    values = ((able[step], wide_value(able[step])) for step in steps)
    return {path: value for path, value in values if value is not None}


def _note(values: Sequence[int], depth: int, asked: int | None) -> str:
    whose = "as data.bit_depth says" if asked else "set data.bit_depth if it is another"
    low = sum(depth_of(value) < depth for value in values)
    fewer = f", {low} of them with values of fewer bits" if low else ""
    return (
        f"{counted(len(values), 'picture')} checked with 16 bits per value, up to "
        f"{max(values)}{fewer}: all "
        f"such pictures are read as {depth}-bit, 0 to {(1 << depth) - 1}; {whose}"
    )
