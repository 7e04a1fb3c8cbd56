"""The contract between a picture file and the tensor that an artifact takes, as sidecars state it.

`export.pictures.images` carries it out, for evaluation, calibration, prediction, video and
benchmarks alike; `export.bundles.contract` writes it out in words for clients without this package.
"""

from typing import Literal

from pydantic import Field

from export.config import Section

VERSION = 1


class Preprocessing(Section):
    """What is done to a picture before it is laid on the canvas, each step with its only choice.

    A change of what is done is another version.

    Attributes:
        version: version of the contract.
        decode: the whole picture, a JPEG at its full size; of an animation the first frame.
        orientation: turned upright as EXIF says.
        color: 8-bit RGB; grey is repeated.
        transparency: laid on black.
        bit_depth: bits in use of pictures with 16 bits a value; the highest 8 of them are kept,
            and a picture with larger values is refused. None: as many as the largest value of
            each picture needs, of 8, 10, 12, 14 and 16.
        resize: Pillow's `BILINEAR`: a triangle filter that widens with the shrink factor, without
            `reducing_gap`; horizontally, then vertically, each pass rounded to uint8.
        size: scaled sides are rounded to whole pixels, halves to even.
        place: where the scaled picture lies; the rest has the value `fill` of the input.
    """

    version: Literal[1] = 1
    decode: Literal["full"] = "full"
    orientation: Literal["exif"] = "exif"
    color: Literal["rgb8"] = "rgb8"
    transparency: Literal["black"] = "black"
    bit_depth: int | None = Field(default=None, ge=8, le=16)
    resize: Literal["bilinear_antialiased"] = "bilinear_antialiased"
    size: Literal["round_half_even"] = "round_half_even"
    place: Literal["top_left"] = "top_left"


# What holds for a sidecar without a statement; `slimdet predict` and `bench` say so.
UNSTATED = (
    "its sidecar states no preprocessing, so it was made before pictures were decoded in full "
    f"everywhere; it is run with preprocessing version {VERSION}, and AP that was reported for it "
    "may differ on JPEGs larger than its input. Export it again to have it stated and measured"
)
