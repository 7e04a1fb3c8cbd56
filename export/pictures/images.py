"""From a picture file to the tensor a detector takes: the one path for training and device.

What happens to a picture here is the contract that sidecars state as `Preprocessing` and that
`export.bundles.contract` puts into words; a change here needs a new version there.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from export.artifact.manifest import InputSpec
from export.errors import DataError
from export.pictures.depth import UnusableError, is_wide, largest_value, narrow
from export.pictures.files import FORMATS, READ

# A batch, as `InputSpec` says: (B, 3, H, W) float32 in 0..1 or (B, H, W, 3) uint8.
Images: TypeAlias = NDArray[np.float32 | np.uint8]

# Pillow refuses more than 179 million pixels; a camera may have half of that, and no warning helps.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# What Pillow's readers raise on files that are broken in one way or another.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    ZeroDivisionError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_AXES = frozenset({5, 6, 7, 8})
_PNG_EXIF = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp"})


@dataclass(frozen=True)
class Letterbox:
    """Where a photograph lies in the input: scaled, at the top left.

    Attributes:
        scale_x: input pixels per photograph pixel.
        scale_y: the same for y; rounding to whole pixels makes the two differ slightly.
        width: width of the scaled picture in input pixels.
        height: height of the scaled picture in input pixels.
    """

    scale_x: float
    scale_y: float
    width: int
    height: int

    def to_input(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """Map (n, 4) xyxy boxes from photograph pixels to input pixels."""
        return (boxes * self._scales()).astype(np.float32)

    def to_photograph(
        self, boxes: NDArray[np.floating], photo_width: int, photo_height: int
    ) -> NDArray[np.float32]:
        """Map (n, 4) xyxy boxes from input pixels to photograph pixels, clipped to it."""
        limits = np.array([photo_width, photo_height] * 2, dtype=np.float64)
        return np.clip(boxes / self._scales(), 0, limits).astype(np.float32)

    def _scales(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2, dtype=np.float64)


def fit(width: int, height: int, input_height: int, input_width: int) -> Letterbox:
    """Scale a photograph of `width` x `height`, up or down, to the largest that fits the input."""
    scale = min(input_width / width, input_height / height)
    new_width = min(input_width, max(1, round(width * scale)))
    new_height = min(input_height, max(1, round(height * scale)))
    return Letterbox(new_width / width, new_height / height, new_width, new_height)


class PictureHeader(NamedTuple):
    """What the header of a picture file states.

    Attributes:
        stored: (width, height) in pixels, as stored.
        orientation: EXIF's 1..8; how the stored picture is turned to be upright.
        several: whether the file holds more frames than the first, which alone is read.
    """

    stored: tuple[int, int]
    orientation: int
    several: bool = False

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) of the upright picture."""
        return self.stored[::-1] if self.orientation in _SWAPS_AXES else self.stored


def picture_header(path: Path) -> PictureHeader:
    """Read the header of a picture file.

    Raises:
        DataError: the file is missing, or no picture that can be read.
    """
    with _reading(path), Image.open(path, formats=FORMATS) as image:
        return _header(image)


def photograph_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of the upright picture; reads the header only.

    Raises:
        DataError: the file is missing, or no picture that can be read.
    """
    return picture_header(path).upright


def open_photograph(path: Path, depth: int | None = None) -> NDArray[np.uint8]:
    """Return the upright picture as (H, W, 3) RGB, decoded in full.

    Transparency is laid on black, an animation gives its first frame. An orientation that EXIF
    does not state readably counts as upright.

    Args:
        path: picture file.
        depth: bits in use of pictures with 16 bits a value, of which the highest 8 are kept; None
            takes as many as the picture's largest value needs, of 8, 10, 12, 14 and 16.

    Raises:
        DataError: the file is missing, no picture that can be read, or holds more bits.
    """
    with _reading(path), Image.open(path, formats=FORMATS) as image:
        return _decode(image, _orientation(image), depth)


def wide_value(path: Path) -> int | None:
    """Return the largest value of a picture with more than 8 bits a value.

    None of another one, and of a file that cannot be opened, which is no question of bits.

    Raises:
        DataError: its values mean no grey levels or colours, or its pixels are broken.
    """
    try:
        image = Image.open(path, formats=FORMATS)
    except (*_BROKEN, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    with _reading(path), image:
        return largest_value(image) if is_wide(image) else None


def picture_pixels(image: Image.Image, name: str, depth: int | None = None) -> NDArray[np.uint8]:
    """Return an open picture as `open_photograph` returns its file.

    Args:
        image: picture of any mode; loaded here if it is not yet.
        name: name of the picture, for messages.
        depth: as of `open_photograph`.

    Raises:
        DataError: its file is broken or closed, or it holds no grey levels or colours.
    """
    with _reading(name):
        return _decode(image, _orientation(image), depth)


def letterbox(
    pixels: NDArray[np.uint8],
    input_height: int,
    input_width: int,
    fill: int = 114,
    original: tuple[int, int] | None = None,
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Scale (H, W, 3) `pixels` to fit, lay them at the top left and fill the rest with `fill`.

    Args:
        pixels: the picture, perhaps decoded at a fraction of its size.
        input_height: height of the canvas in pixels.
        input_width: width of the canvas in pixels.
        fill: grey value of what the picture does not cover.
        original: (width, height) of the photograph where `pixels` hold a fraction of it; the
            returned `Letterbox` then refers to the photograph.

    Returns:
        The (input_height, input_width, 3) canvas, and where the picture lies in it.
    """
    height, width = pixels.shape[:2]
    photo_width, photo_height = original or (width, height)
    place = fit(photo_width, photo_height, input_height, input_width)
    if (place.width, place.height) != (width, height):
        scaled = Image.fromarray(pixels).resize(
            (place.width, place.height),
            Image.Resampling.BILINEAR,  # in Pillow this averages over all source pixels
            box=_covered(width, height, original),
        )
        pixels = np.asarray(scaled)
    canvas = np.full((input_height, input_width, 3), fill, dtype=np.uint8)
    canvas[: place.height, : place.width] = pixels
    return canvas, place


def read_canvas(
    path: Path, input_height: int, input_width: int, fill: int = 114, depth: int | None = None
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Open a photograph and letterbox it.

    Raises:
        DataError: the file is missing, or no picture that can be read.
    """
    return letterbox(open_photograph(path, depth), input_height, input_width, fill)


def read_canvas_fast(
    path: Path, input_height: int, input_width: int, fill: int = 114, depth: int | None = None
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Open a photograph and letterbox it; a JPEG is decoded at a fraction of its size.

    The fraction is the smallest of 1/2, 1/4 and 1/8 that is not below the letterboxed size. These
    are other pixels than those of `read_canvas`, by 0.3 to 2 grey levels in the mean: for training
    alone, never for what is measured or used.

    Raises:
        DataError: the file is missing, or no picture that can be read.
    """
    with _reading(path), Image.open(path, formats=FORMATS) as image:
        header = _header(image)
        width, height = header.upright
        place = fit(width, height, input_height, input_width)
        orientation = header.orientation
        least = (place.width, place.height)
        image.draft(None, least[::-1] if orientation in _SWAPS_AXES else least)
        pixels = _decode(image, orientation, depth)
    return letterbox(pixels, input_height, input_width, fill, original=(width, height))


def to_tensor(canvases: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Stack (H, W, 3) canvases to (B, 3, H, W) in 0..1, contiguous."""
    stacked = np.stack(canvases).transpose(0, 3, 1, 2)
    tensor: NDArray[np.float32] = np.divide(stacked, 255, dtype=np.float32, order="C")
    return tensor


def to_input(canvases: Sequence[NDArray[np.uint8]], spec: InputSpec) -> Images:
    """Stack (H, W, 3) canvases to the tensor that an artifact takes, contiguous."""
    return np.stack(canvases) if spec.format == "uint8" else to_tensor(canvases)


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """Turn whatever a broken file raises into a `DataError` that names it."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: too many pixels to be a photograph ({error})") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; a picture was expected here") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, where a picture file was expected") from None
    except UnidentifiedImageError:
        empty = Path(path).is_file() and Path(path).stat().st_size == 0
        found = "an empty file" if empty else f"not a picture that can be read; expected {READ}"
        raise DataError(f"{path}: {found}; replace or remove it") from None
    except UnusableError as error:
        raise DataError(f"{path}: {error}") from None
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: a broken picture ({reason}); replace or remove it") from None


def _orientation(image: Image.Image) -> int:
    """Return EXIF's 1..8; 1 where the header states none that can be read."""
    if image.format == "PNG" and not _PNG_EXIF & image.info.keys():
        return 1  # here Pillow would decode the whole picture to look behind its pixels
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _header(image: Image.Image) -> PictureHeader:
    width, height = image.size
    if isinstance(image, TiffImageFile):  # newer Pillow has swapped `size` already, older has not
        width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    try:
        several = bool(getattr(image, "is_animated", False))
    except _BROKEN:  # a GIF's second frame is looked for; the first may be whole
        several = False
    return PictureHeader((width, height), _orientation(image), several)


def _decode(image: Image.Image, orientation: int, depth: int | None) -> NDArray[np.uint8]:
    rgb = _to_rgb(narrow(image, depth))
    if orientation != 1 and not isinstance(image, TiffImageFile):  # Pillow has turned a TIFF
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return np.array(rgb)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        if image.mode == "La":  # which Pillow converts to LA alone
            image = image.convert("LA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _covered(
    width: int, height: int, original: tuple[int, int] | None
) -> tuple[float, float, float, float]:
    """Return the part of the pixels that the photograph covers.

    A JPEG decoded at 1/8 rounds its size up: 641 columns become 81, of which 80.125 are picture.
    """
    if original is not None:
        for part in (1, 2, 4, 8):
            covered = (original[0] / part, original[1] / part)
            if (-(-original[0] // part), -(-original[1] // part)) == (width, height):
                return (0.0, 0.0, *covered)
    return (0.0, 0.0, float(width), float(height))
