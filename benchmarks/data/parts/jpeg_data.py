"""Whether the pixels of a JPEG are all in its file, also where an end marker stands behind a cut.

Decoders fill what is missing, and Pillow does not pass on that they did. A whole JPEG decodes to
the same pixels when codes are put in before its end marker, since its decoder has all it needs by
then; of a cut one the codes become pixels.
"""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_GREY, _PATCH = 128, 4  # what the baseline decoder fills with; side of the corners looked at
_PARTS = [part.tobytes() for part in np.random.default_rng(0).integers(0, 255, (64, 128), np.uint8)]
_CODES = b"".join(_PARTS)  # without FF, and so without markers
_RESTARTED = b"".join(part + bytes([0xFF, 0xD0 + i % 8]) for i, part in enumerate(_PARTS))
_ROWS = (
    17  # of the usual block and one above, into which colour is smoothed: its last bits may lack
)


def stops_early(path: Path, pixels: NDArray[np.uint8]) -> bool:
    """Whether pixels of a JPEG are missing, if baseline in more rows than a block has.

    False for other formats.

    A baseline JPEG is decoded again only where a corner is the grey that decoders fill with; a
    progressive one, whose missing scans blur it, always.

    Args:
        path: picture file that decodes.
        pixels: the picture, (H, W, 3).
    """
    with path.open("rb") as file:
        if file.read(2) != b"\xff\xd8":
            return False
    data = path.read_bytes()
    start = data.find(b"\xff\xda")
    end = data.find(b"\xff\xd9", start)
    head = data[: max(start, 0)]
    progressive = b"\xff\xc2" in head
    if start < 0 or end < 0:
        return False
    with Image.open(path, formats=["JPEG"]) as image:
        other_colours = image.mode == "CMYK"  # in which grey is not what it is in RGB
    if not (progressive or other_colours or _has_grey_corner(pixels)):
        return False
    codes = _RESTARTED if b"\xff\xdd" in head else _CODES
    try:
        own, other = _decoded(data), _decoded(data[:end] + codes + data[end:])
    except (OSError, SyntaxError, ValueError):
        return False  # the bytes found are no end marker
    differs = (own != other).reshape(len(own), -1).any(axis=1)
    return int(differs.sum()) > (0 if progressive else _ROWS)


def _has_grey_corner(pixels: NDArray[np.uint8]) -> bool:
    ends = (slice(None, _PATCH), slice(-_PATCH, None))
    corners = (pixels[rows, columns] for rows in ends for columns in ends)
    return any(bool((corner == _GREY).all()) for corner in corners)


def _decoded(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.asarray(image)
