import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from export.errors import DataError
from export.pictures.images import (
    fit,
    letterbox,
    open_photograph,
    photograph_size,
    read_canvas,
    read_canvas_fast,
    to_tensor,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def save(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def quarters(width: int, height: int) -> Image.Image:
    """Red at the top left, the rest blue."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    return image


def test_a_wide_photograph_fills_the_width_and_keeps_its_shape():
    # 640 x 480 into 320 x 320: scale min(320/640, 320/480) = 1/2.
    place = fit(640, 480, 320, 320)
    assert (place.width, place.height, place.scale_x, place.scale_y) == (320, 240, 0.5, 0.5)


def test_a_small_photograph_is_enlarged():
    assert (fit(10, 20, 100, 100).width, fit(10, 20, 100, 100).height) == (50, 100)


def test_rounding_gives_each_axis_its_own_scale():
    # 100 x 33 into 50 x 50: scale 1/2, height 16.5 -> 16 (round half to even).
    place = fit(100, 33, 50, 50)
    assert (place.width, place.height) == (50, 16)
    assert place.scale_y == pytest.approx(16 / 33)


def test_a_hair_line_keeps_one_pixel():
    assert fit(4000, 1, 64, 64).height == 1


def test_boxes_go_to_the_input_and_back():
    place = fit(640, 480, 320, 320)
    boxes = np.array([[10.0, 20.0, 30.0, 40.0]])
    assert place.to_input(boxes).tolist() == [[5, 10, 15, 20]]
    assert place.to_photograph(place.to_input(boxes), 640, 480).tolist() == boxes.tolist()


def test_boxes_beyond_the_photograph_are_clipped():
    place = fit(640, 480, 320, 320)
    boxes = np.array([[-5.0, 200.0, 330.0, 310.0]])
    assert place.to_photograph(boxes, 640, 480).tolist() == [[0, 400, 640, 480]]


def test_no_boxes_stay_no_boxes():
    assert fit(4, 4, 8, 8).to_input(np.zeros((0, 4))).shape == (0, 4)


def test_the_picture_lies_at_the_top_left_and_grey_fills_the_rest():
    pixels = np.full((2, 4, 3), 200, dtype=np.uint8)
    canvas, place = letterbox(pixels, 8, 8, fill=7)
    assert (place.width, place.height) == (8, 4)
    assert (canvas[:4] == 200).all()
    assert (canvas[4:] == 7).all()


def test_shrinking_averages_over_all_pixels():
    # Columns 0, 255, 0, 255, ...: a resampler that picks pixels gives 0 or 255, never the middle.
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:, 1::2] = 255
    canvas, _ = letterbox(pixels, 8, 8)
    assert np.abs(canvas[:, 1:-1].astype(int) - 127).max() <= 8


def test_a_picture_of_the_input_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert (letterbox(pixels, 8, 8)[0] == pixels).all()


def test_a_tensor_is_channels_first_in_zero_to_one():
    canvas = np.zeros((2, 3, 3), dtype=np.uint8)
    canvas[0, 1] = (255, 51, 0)
    tensor = to_tensor([canvas, canvas])
    assert tensor.shape == (2, 3, 2, 3)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert tensor[1, :, 0, 1].tolist() == [1.0, np.float32(0.2), 0.0]


def waves(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    planes = np.stack([np.sin(x / 25), np.cos(y / 30), np.sin((x + y) / 40)], axis=-1)
    return Image.fromarray((planes * 100 + 128).astype(np.uint8))


@pytest.mark.parametrize("size", [(641, 479), (1500, 40), (70, 72), (30, 20)])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_canvas_is_pillows_full_decode_and_its_bilinear_resize(tmp_path, size, name):
    path = save(waves(*size), tmp_path / name)
    canvas, place = read_canvas(path, 72, 72, fill=9)
    with Image.open(path) as image:
        scaled = image.convert("RGB").resize((place.width, place.height), Image.Resampling.BILINEAR)
    assert (canvas[: place.height, : place.width] == np.asarray(scaled)).all()
    assert (canvas[place.height :] == 9).all()
    assert (canvas[:, place.width :] == 9).all()


def decoded_size(path: Path, height: int, width: int) -> tuple[int, int]:
    """Size that Pillow decodes at while the file is read onto a canvas."""
    sizes: list[tuple[int, int]] = []
    decode = JpegImagePlugin.JpegImageFile.load

    def load(self):
        result = decode(self)
        sizes.append(self.size)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JpegImagePlugin.JpegImageFile, "load", load)
        read_canvas_fast(path, height, width)
    return sizes[0]


def test_fast_decoding_takes_the_smallest_fraction_that_suffices(tmp_path):
    path = save(quarters(640, 480), tmp_path / "a.jpg")
    assert decoded_size(path, 240, 320) == (320, 240)  # 1/2
    assert decoded_size(path, 241, 321) == (640, 480)
    assert decoded_size(path, 60, 80) == (80, 60)  # 1/8


def test_fast_decoding_looks_at_upright_axes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 640 x 480, to be shown 480 x 640
    path = save(quarters(640, 480), tmp_path / "a.jpg", exif=exif)
    assert decoded_size(path, 320, 240) == (320, 240)
    assert decoded_size(path, 321, 241) == (640, 480)
    assert read_canvas_fast(path, 320, 240)[0].shape == (320, 240, 3)


def test_fast_decoding_gives_nearly_the_canvas_of_the_whole_picture(tmp_path):
    path = save(waves(641, 479), tmp_path / "a.jpg", quality=95)
    whole, place = read_canvas(path, 72, 72)
    canvas, fast_place = read_canvas_fast(path, 72, 72)
    assert fast_place == place == fit(641, 479, 72, 72)
    assert 0 < np.abs(canvas.astype(int) - whole).mean() < 1


def test_the_rounded_up_edge_of_a_fraction_is_left_out():
    # 9 columns decoded at 1/8 are 2; the photograph ends at 1.125 of them, so its right edge shows
    # the second column for a ninth of the width only.
    drafted = np.zeros((1, 2, 3), dtype=np.uint8)
    drafted[:, 1] = 240
    whole, _ = letterbox(drafted, 9, 9)
    canvas, place = letterbox(drafted, 9, 9, original=(9, 1))
    assert (place.width, place.height) == (9, 1)
    assert canvas[0, 4, 0] < whole[0, 4, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(tmp_path, orientation):
    upright = quarters(32, 16)
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.tif", "a.webp"):
        lossless = {"lossless": True} if name.endswith("webp") else {}
        path = save(stored, tmp_path / name, exif=exif, **lossless)
        assert photograph_size(path) == (32, 16)
        assert (open_photograph(path) == np.asarray(upright)).all()


def test_an_orientation_that_makes_no_sense_counts_as_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    path = save(quarters(8, 4), tmp_path / "a.png", exif=exif)
    assert open_photograph(path).shape == (4, 8, 3)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("RGB", (4, 4), (1, 2, 3)), (1, 2, 3)),
        (Image.new("RGBA", (4, 4), (100, 0, 0, 255)), (100, 0, 0)),
        (Image.new("RGBA", (4, 4), (100, 200, 50, 0)), (0, 0, 0)),  # transparent: black
        (Image.new("LA", (4, 4), (90, 255)), (90, 90, 90)),
        (Image.fromarray(np.full((4, 4), 300, dtype=np.uint16)), (75, 75, 75)),  # of 10 bits
        (Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16)), (255, 255, 255)),
    ],
    ids=["grey", "bits", "rgb", "opaque", "transparent", "grey-alpha", "16-bit dark", "16-bit"],
)
def test_every_kind_of_pixel_becomes_rgb(tmp_path, image, expected):
    pixels = open_photograph(save(image, tmp_path / "a.png"))
    assert pixels.shape == (4, 4, 3)
    assert pixels.dtype == np.uint8
    assert tuple(pixels[0, 0]) == expected


def test_a_palette_keeps_its_colours_and_loses_its_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    opaque = open_photograph(save(image, tmp_path / "a.png"))
    assert opaque.tolist() == [[[10, 20, 30], [40, 50, 60]]]
    see_through = open_photograph(save(image, tmp_path / "b.png", transparency=bytes([255, 0])))
    assert see_through.tolist() == [[[10, 20, 30], [0, 0, 0]]]


def test_cmyk_becomes_rgb(tmp_path):
    path = save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=100)
    assert np.abs(open_photograph(path)[8, 8].astype(int) - RED).max() <= 3


def test_pixels_can_be_written_to(tmp_path):
    pixels = open_photograph(save(quarters(4, 4), tmp_path / "a.png"))
    pixels[0, 0] = 0
    assert pixels.flags.c_contiguous


def jpeg_bytes() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jpg", b"", "an empty file"),
        ("text.jpg", b"hello, I am no picture", "not a picture"),
        ("cut.jpg", jpeg_bytes()[:900], "broken picture"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\x00\x00", "picture"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_canvas(path, 8, 8)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_said_to_be_so(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'no.jpg'}: no such file")):
        photograph_size(tmp_path / "no.jpg")
    with pytest.raises(DataError, match="a folder, where a picture file was expected"):
        open_photograph(tmp_path)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = save(Image.new("L", (100, 100)), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # refused from twice this on
    with pytest.raises(DataError, match="too many pixels"):
        open_photograph(path)


@pytest.mark.photographs
def test_real_photographs_keep_their_size_and_fit_the_canvas(photographs):
    paths = sorted((photographs / "bccd" / "images").iterdir())[:5]
    for path in paths:
        width, height = photograph_size(path)
        assert open_photograph(path).shape == (height, width, 3)
        canvas, place = read_canvas(path, 96, 96)
        assert canvas.shape == (96, 96, 3)
        assert place == fit(width, height, 96, 96)


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000"]
)
def test_what_a_file_holds_decides_and_not_its_ending(tmp_path, kind):
    path = save(Image.new("RGB", (6, 4), RED), tmp_path / "a.png", format=kind)
    assert open_photograph(path).shape == (4, 6, 3)
    assert photograph_size(path) == (6, 4)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "TGA", "SGI", "PDF"])
def test_formats_that_start_programs_or_are_no_photographs_are_refused(tmp_path, kind):
    path = save(Image.new("RGB", (6, 4), RED), tmp_path / "a.png", format=kind)
    for read in (open_photograph, photograph_size, lambda p: read_canvas_fast(p, 8, 8)):
        with pytest.raises(
            DataError, match=r"a\.png: not a picture that can be read; expected JPEG"
        ):
            read(path)
