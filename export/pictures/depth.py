"""Pictures of 16 bits a value: how many bits are in use, and what a byte of them is.

Cameras of 10, 12 or 14 bits write files of 16. Their high byte alone would be nearly black.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.pictures.files import FORMATS

DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras use
_GREY = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})  # modes of wide grey
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
_SAMPLE_FORMAT, _PHOTOMETRIC = 339, 262  # TIFF tags
_SIGNED, _WHITE_IS_ZERO = 2, 0
_FLOAT = (
    "holds floating-point values, of which nothing says what is black and what white; save it "
    "with 8 or 16 bits"
)


class UnusableError(ValueError):
    """A picture that is whole, and whose values mean no grey levels or colours; says what to do."""


def depth_of(largest: int) -> int:
    """Return the fewest bits of `DEPTHS` that hold values up to `largest`."""
    return next((depth for depth in DEPTHS if largest < 1 << depth), DEPTHS[-1])


def to_bytes(values: NDArray[np.integer], depth: int | None) -> NDArray[np.uint8]:
    """Return values of `depth` bits as bytes: the highest 8 of these bits.

    Args:
        values: array of any shape.
        depth: bits in use, 8 to 16; None takes the fewest that hold the largest value.

    Raises:
        UnusableError: values are negative or have more bits.
    """
    lowest, largest = int(values.min()), int(values.max())
    if lowest < 0:
        raise UnusableError(
            f"holds negative values, down to {lowest}; save it unsigned, 0 being black"
        )
    if largest >= 1 << 16:
        raise UnusableError(f"holds values up to {largest}; save it with 16 bits at most")
    depth = depth or depth_of(largest)
    if largest >= 1 << depth:
        raise UnusableError(
            f"holds values up to {largest}, and 16-bit pictures are read as {depth} bits here "
            f"(0 to {(1 << depth) - 1}); scale it to these, or train with data.bit_depth: "
            f"{depth_of(largest)}"
        )
    high: NDArray[np.uint8] = (values >> (depth - 8)).astype(np.uint8)
    return high


def planes_to_bytes(planes: NDArray[np.uint16], depth: int | None) -> NDArray[np.uint8]:
    """Return (H, W, C) values as bytes: up to 3 colours of `depth` bits, then alpha of all 16.

    Raises:
        UnusableError: a colour has more bits.
    """
    alpha = (planes[..., 3:] >> 8).astype(np.uint8)
    return np.concatenate([to_bytes(planes[..., :3], depth), alpha], axis=2)


def is_wide(image: Image.Image) -> bool:
    """Whether an open picture has more than 8 bits a value; reads no pixels."""
    return image.mode in _GREY or image.mode == "F" or _is_wide_color(image)


def narrow(image: Image.Image, depth: int | None) -> Image.Image:
    """Return a picture of 8 bits a value; one that has them already is returned as it is.

    Args:
        image: opened, not loaded where it is a file: its low bytes are lost in loading.
        depth: bits in use of a wide picture; None takes what its largest value needs.

    Raises:
        UnusableError: the values are floating-point or negative, or have more bits.
    """
    tags = getattr(image, "tag_v2", {})
    signed = _SIGNED in _tuple(tags.get(_SAMPLE_FORMAT, 1))
    if image.mode == "F":
        raise UnusableError(_FLOAT)
    if image.mode in _GREY:
        values = to_bytes(np.asarray(image), depth)
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts 8 bits alone
            values = 255 - values
        return Image.fromarray(values)
    if signed:
        raise UnusableError("holds signed values; save it unsigned, 0 being black")
    return _narrow_color(image, depth) if _is_wide_color(image) else image


def largest_value(image: Image.Image) -> int:
    """Return the largest value of a wide picture that is opened and not loaded.

    Raises:
        UnusableError: the values are floating-point or negative, or have more than 16 bits.
    """
    if image.mode == "F":
        raise UnusableError(_FLOAT)
    values: NDArray[Any] = np.asarray(image) if image.mode in _GREY else _both_bytes(image)[..., :3]
    to_bytes(values, None)
    return int(values.max())


def _is_wide_color(image: Image.Image) -> bool:
    """Whether Pillow would drop the low bytes of a file that is not loaded yet."""
    wide = image.mode in {"RGB", "RGBA"} and _raw_mode(image)[-3:] in _OTHER_BYTE
    return wide and bool(_file_of(image))


def _narrow_color(image: Image.Image, depth: int | None) -> Image.Image:
    return Image.fromarray(planes_to_bytes(_both_bytes(image), depth))


def _both_bytes(image: Image.Image) -> NDArray[np.uint16]:
    """Decode twice: Pillow keeps one byte of two, and which one is a matter of the byte order."""
    raw = _raw_mode(image)
    other = raw[:-3] + _OTHER_BYTE[raw[-3:]]
    with Image.open(_file_of(image), formats=FORMATS) as again:
        again.tile = [tile._replace(args=_replaced(tile.args, other)) for tile in again.tile]
        low = np.asarray(again).astype(np.uint16)
    high = np.asarray(image).astype(np.uint16)
    both: NDArray[np.uint16] = np.bitwise_or(np.left_shift(high, 8), low, dtype=np.uint16)
    return both


def _raw_mode(image: Image.Image) -> str:
    """Return the raw mode of a file that is not loaded; else nothing."""
    tiles = getattr(image, "tile", None) or []
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args or "")


def _replaced(args: tuple[object, ...] | str | None, raw: str) -> tuple[object, ...] | str:
    return (raw, *args[1:]) if isinstance(args, tuple) else raw


def _file_of(image: Image.Image) -> str:
    return str(getattr(image, "filename", "") or "")


def _tuple(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)
