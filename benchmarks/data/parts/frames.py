"""In which orientation boxes were made: on the upright picture, or on the picture as stored.

A photograph may be stored lying, with a turn in its EXIF data that programs apply to show it.
Whether the program in which boxes were drawn did so shows in the size that it wrote beside them.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.errors import DataError
from export.pictures.images import PictureHeader, picture_header

_THREADS = 4


class Frame(NamedTuple):
    """The picture that boxes refer to.

    Attributes:
        width: pixels.
        height: pixels.
        orientation: EXIF's 1..8 that makes this picture upright; 1 where it is.
        decided: false where the picture is stored turned, and neither its own stated size nor
            those of other pictures tell whether its boxes are.
        several: whether the file holds more frames than this one.
    """

    width: int
    height: int
    orientation: int = 1
    decided: bool = True
    several: bool = False

    def upright(self) -> tuple[int, int]:
        """Return (width, height) of the upright picture."""
        swaps = self.orientation >= 5
        return (self.height, self.width) if swaps else (self.width, self.height)

    def turned(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (n, 4) xyxy boxes of this picture in pixels of the upright one."""
        x1, y1, x2, y2 = boxes.T
        left, right = (x1, x2), (self.width - x2, self.width - x1)
        top, bottom = (y1, y2), (self.height - y2, self.height - y1)
        across, down = {  # ranges of the upright x and of the upright y
            1: (left, top),
            2: (right, top),
            3: (right, bottom),
            4: (left, bottom),
            5: (top, left),
            6: (bottom, left),
            7: (bottom, right),
            8: (top, right),
        }[self.orientation]
        return np.stack([across[0], down[0], across[1], down[1]], axis=1)


def frames_of(pictures: Sequence[Path], stated: Sequence[tuple[int, int] | None]) -> list[Frame]:
    """Return the frame of the boxes of each picture; reads the headers of the files.

    A stated size that only the stored or only the upright picture has decides. Where it decides
    nothing (it is not stated, the picture is square, or its turn keeps the size) the other pictures
    do if they agree, since one program wrote them all; otherwise boxes are taken as made on the
    upright picture, which current annotation tools and training tools show and read.

    Args:
        pictures: files.
        stated: (width, height) in the annotations of each, None where they state none.

    Raises:
        DataError: a picture cannot be read, and its size is not stated.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = list(pool.map(_header, pictures))
    votes = {
        size == header.stored
        for header, size in zip(headers, stated, strict=True)
        if isinstance(header, PictureHeader) and _decides(header, size)
    }
    return [
        _frame(header, size, votes)._replace(
            several=isinstance(header, PictureHeader) and header.several
        )
        for header, size in zip(headers, stated, strict=True)
    ]


def _header(path: Path) -> PictureHeader | DataError:
    try:
        return picture_header(path)
    except DataError as error:
        return error


def _decides(header: PictureHeader, size: tuple[int, int] | None) -> bool:
    return header.stored != header.upright and size in (header.stored, header.upright)


def _frame(
    header: PictureHeader | DataError, size: tuple[int, int] | None, votes: set[bool]
) -> Frame:
    if isinstance(header, DataError):
        if size is None:
            raise header
        return Frame(*size)  # reading the picture later raises the error
    if header.orientation == 1 or size not in (None, header.stored, header.upright):
        return Frame(*(size or header.upright))
    decided = _decides(header, size)
    as_stored = size == header.stored if decided else votes == {True}
    if as_stored:
        return Frame(*header.stored, header.orientation)
    return Frame(*header.upright, decided=decided or len(votes) == 1)
