"""The way from photograph to input and back, for photographs and inputs of any size."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from export.pictures.images import fit, letterbox

SIDE = st.integers(1, 5000)
INPUT = st.integers(1, 1536)
SHARE = st.floats(0, 1, allow_subnormal=False)  # a library may flush subnormals to zero


@given(width=SIDE, height=SIDE, input_height=INPUT, input_width=INPUT)
@example(width=1, height=5000, input_height=32, input_width=32)
def test_a_photograph_fits_and_touches_a_border(
    width: int, height: int, input_height: int, input_width: int
) -> None:
    place = fit(width, height, input_height, input_width)
    assert 1 <= place.width <= input_width
    assert 1 <= place.height <= input_height
    assert place.width == input_width or place.height == input_height
    assert place.scale_x == place.width / width
    assert place.scale_y == place.height / height


@given(width=SIDE, height=SIDE, input_height=INPUT, input_width=INPUT)
def test_the_shape_changes_by_less_than_a_pixel(
    width: int, height: int, input_height: int, input_width: int
) -> None:
    place = fit(width, height, input_height, input_width)
    scale = min(input_width / width, input_height / height)
    assert abs(place.width - width * scale) <= 1  # half of rounding, more where it became 1
    assert abs(place.height - height * scale) <= 1


@pytest.mark.slow
@given(
    width=SIDE,
    height=SIDE,
    input_height=INPUT,
    input_width=INPUT,
    shares=st.lists(st.tuples(SHARE, SHARE, SHARE, SHARE), max_size=5),
)
def test_boxes_come_back_from_the_input(
    width: int,
    height: int,
    input_height: int,
    input_width: int,
    shares: list[tuple[float, float, float, float]],
) -> None:
    place = fit(width, height, input_height, input_width)
    boxes = np.array(shares).reshape(-1, 4) * [width, height, width, height]
    inside = place.to_input(boxes)
    back = place.to_photograph(inside, width, height)
    assert back.shape == boxes.shape
    assert (inside <= np.array([place.width, place.height] * 2) * (1 + 1e-6)).all()
    # float32 holds 24 bits of a coordinate, here and on the way there
    assert np.abs(back - boxes).max(initial=0) <= 4 * np.finfo(np.float32).eps * max(width, height)


@given(
    photo=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    fill=st.integers(0, 255),
)
def test_the_canvas_is_the_photograph_and_fill(
    photo: tuple[int, int], size: tuple[int, int], fill: int
) -> None:
    shade = (fill + 100) % 256
    width, height = photo
    pixels = np.full((height, width, 3), shade, dtype=np.uint8)
    canvas, place = letterbox(pixels, *size, fill)
    assert canvas.shape == (*size, 3)
    assert (canvas[: place.height, : place.width] == shade).all()
    assert (canvas[place.height :] == fill).all()
    assert (canvas[:, place.width :] == fill).all()


@pytest.mark.slow
@given(
    photo=st.tuples(st.integers(20, 160), st.integers(20, 160)),
    size=st.tuples(st.integers(32, 160), st.integers(32, 160)),
    corner=st.tuples(SHARE, SHARE),
    side=st.floats(0.3, 1, allow_subnormal=False),
)
def test_an_object_is_drawn_inside_its_box(
    photo: tuple[int, int],
    size: tuple[int, int],
    corner: tuple[float, float],
    side: float,
) -> None:
    """A white rectangle on black: its half-bright border is that of its box in the input."""
    width, height = photo
    across, down = max(1, int(side * width)), max(1, int(side * height))
    left, top = int(corner[0] * (width - across)), int(corner[1] * (height - down))
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[top : top + down, left : left + across] = 255
    canvas, place = letterbox(pixels, *size, fill=0)
    rows, columns = np.nonzero(canvas[..., 0] >= 128)
    box = place.to_input(np.array([[left, top, left + across, top + down]]))[0]
    if min(box[2] - box[0], box[3] - box[1]) < 3:
        return  # too thin to have a pixel that is bright all over
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(box - seen).max() <= 1
