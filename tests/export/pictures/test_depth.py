import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.errors import DataError
from export.pictures.depth import UnusableError, depth_of, to_bytes
from export.pictures.images import open_photograph, wide_value

RAMP = np.linspace(0, 4095, 24 * 32).astype(np.uint16).reshape(24, 32)
COLOR = np.random.default_rng(0).integers(0, 4096, (24, 32, 3)).astype(np.uint16)


def write_png(path: Path, values: NDArray[np.uint16]) -> Path:
    """Write (H, W) grey, or (H, W, 3 or 4) colour, which Pillow cannot write with 16 bits."""
    planes = values[..., None] if values.ndim == 2 else values
    height, width, channels = planes.shape
    kind = {1: 0, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in planes)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def write_tiff(path: Path, values: NDArray[Any], photometric: int = 1, kind: int = 1) -> Path:
    """Write uncompressed little-endian TIFF; `kind` is its sample format."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    data, bits = values.tobytes(), values.dtype.itemsize * 8
    end = 8 + len(data)
    depths = struct.pack(f"<{channels}H", *[bits] * channels)
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits if channels == 1 else end),
        (259, 3, 1, 1),
        (262, 3, 1, photometric if channels == 1 else 2),
        (273, 4, 1, 8),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
        (339, 3, 1, kind),
    ]
    folder = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    head = b"II*\0" + struct.pack("<I", end + len(depths))
    path.write_bytes(head + data + depths + folder + struct.pack("<I", 0))
    return path


@pytest.mark.parametrize(
    ("largest", "bits"),
    [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (16383, 14), (16384, 16)],
)
def test_the_bits_in_use_are_the_fewest_of_a_camera_that_hold_the_largest_value(largest, bits):
    assert depth_of(largest) == bits


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_of_any_camera_spans_all_bytes(tmp_path, bits, name):
    values = np.linspace(0, 2**bits - 1, 24 * 32).astype(np.uint16).reshape(24, 32)
    path = tmp_path / name
    write = write_png if name == "a.png" else write_tiff
    pixels = open_photograph(write(path, values))
    assert (pixels == (values >> (bits - 8))[..., None]).all()
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert wide_value(path) == 2**bits - 1


def test_colours_of_16_bits_keep_the_highest_of_the_bits_in_use(tmp_path):
    for path in (write_png(tmp_path / "a.png", COLOR), write_tiff(tmp_path / "a.tif", COLOR)):
        assert (open_photograph(path) == COLOR >> 4).all()
        assert (open_photograph(path, 16) == COLOR >> 8).all()
        assert wide_value(path) == COLOR.max()


def test_alpha_of_16_bits_has_all_of_them(tmp_path):
    alpha = np.full((24, 32, 1), 65535, dtype=np.uint16)
    path = write_png(tmp_path / "a.png", np.concatenate([COLOR, alpha], axis=2))
    assert (open_photograph(path) == COLOR >> 4).all()


def test_a_stated_depth_holds_for_dark_pictures_too(tmp_path):
    path = write_png(tmp_path / "a.png", RAMP // 8)
    assert open_photograph(path, 12).max() == 511 >> 4
    assert open_photograph(path).max() == 511 >> 2


def test_a_picture_with_more_bits_than_stated_is_refused(tmp_path):
    path = write_png(tmp_path / "a.png", RAMP)
    with pytest.raises(DataError, match=r"a\.png: holds values up to 4095, .* read as 10 bits"):
        open_photograph(path, 10)


def test_where_white_is_zero_the_picture_is_inverted(tmp_path):
    path = write_tiff(tmp_path / "a.tif", RAMP, photometric=0)
    assert (open_photograph(path) == (255 - (RAMP >> 4))[..., None]).all()
    eight = write_tiff(tmp_path / "b.tif", (RAMP >> 4).astype(np.uint8), photometric=0)
    assert (open_photograph(eight) == (255 - (RAMP >> 4))[..., None]).all()


def test_signed_values_without_negative_ones_are_read(tmp_path):
    path = write_tiff(tmp_path / "a.tif", RAMP.astype(np.int16), kind=2)
    assert (open_photograph(path) == (RAMP >> 4)[..., None]).all()


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        (RAMP.astype(np.int16) - 100, 2, "negative values, down to -100"),
        ((RAMP >> 5).astype(np.int8) - 50, 2, "signed values"),
        (RAMP.astype(np.float32), 3, "floating-point values"),
        (RAMP.astype(np.float16), 3, "not a picture that can be read; expected JPEG"),
        (RAMP.astype(np.int32) * 100, 2, "values up to 409500; save it with 16 bits"),
    ],
    ids=["negative", "signed bytes", "float", "half float", "32-bit"],
)
def test_values_that_mean_no_grey_are_refused_with_what_to_do(tmp_path, values, kind, said):
    path = write_tiff(tmp_path / "a.tif", values, kind=kind)
    with pytest.raises(DataError, match=said) as caught:
        open_photograph(path)
    assert str(path) in str(caught.value)
    assert "broken" not in str(caught.value)


def test_pictures_of_8_bits_and_broken_files_are_not_wide(tmp_path):
    Image.fromarray((RAMP >> 4).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert wide_value(tmp_path / "a.png") is None
    assert wide_value(tmp_path / "b.png") is None


def test_values_beyond_the_depth_are_named():
    with pytest.raises(UnusableError, match=r"up to 300, .* \(0 to 255\).* data.bit_depth: 10"):
        to_bytes(np.array([300]), 8)
