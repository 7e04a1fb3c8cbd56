"""A picture and its boxes are changed together, whatever the picture and the change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.data.augment import AugmentConfig, Sample, augment

SIDE = 64
FILL = 0


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """A white rectangle on grey of a lower shade, in a picture that fills part of the canvas."""
    width, height = draw(st.integers(24, SIDE)), draw(st.integers(24, SIDE))
    x1, y1 = draw(st.integers(0, width - 12)), draw(st.integers(0, height - 12))
    x2, y2 = draw(st.integers(x1 + 12, width)), draw(st.integers(y1 + 12, height))
    pixels = np.full((SIDE, SIDE, 3), FILL, dtype=np.uint8)
    pixels[:height, :width] = 40
    pixels[y1:y2, x1:x2] = 255
    box = np.array([[x1, y1, x2, y2]], dtype=np.float32)
    return Sample(pixels, box, np.zeros(1, np.int64), height, width)


CHANGES = st.builds(
    AugmentConfig,
    flip=st.sampled_from([0.0, 1.0]),
    vertical_flip=st.sampled_from([0.0, 1.0]),
    transpose=st.sampled_from([0.0, 1.0]),
    scale=st.sampled_from([(1.0, 1.0), (0.6, 0.6), (0.9, 1.1), (1.5, 1.5)]),
)


@pytest.mark.slow
@given(sample=samples(), config=CHANGES, seed=st.integers(0, 1000))
def test_a_box_stays_around_its_object(sample: Sample, config: AugmentConfig, seed: int) -> None:
    changed = augment(sample, config, np.random.default_rng(seed), lambda _: sample, FILL)
    rows, columns = np.nonzero(changed.pixels[..., 0] >= 148)  # half of the way from 40 to 255
    if not len(changed.boxes):  # cut away by the zoom
        return
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(changed.boxes[0] - seen).max() <= 1
    outside = np.ones((SIDE, SIDE), dtype=bool)
    outside[: changed.height, : changed.width] = False
    assert (changed.pixels[outside] == FILL).all()


@pytest.mark.slow
@given(sample=samples(), config=CHANGES, seed=st.integers(0, 1000))
def test_a_mosaic_keeps_boxes_in_the_canvas_and_around_white(
    sample: Sample, config: AugmentConfig, seed: int
) -> None:
    config = config.model_copy(update={"mosaic": 1.0, "scale": (1.0, 1.0)})
    changed = augment(sample, config, np.random.default_rng(seed), lambda _: sample, FILL)
    assert ((changed.boxes >= 0) & (changed.boxes <= SIDE)).all()
    for x1, y1, x2, y2 in changed.boxes.tolist():
        inner = changed.pixels[int(y1) + 2 : int(y2) - 2, int(x1) + 2 : int(x2) - 2]
        assert (inner >= 148).all()


@given(sample=samples(), seed=st.integers(0, 1000), way=st.sampled_from(["flip", "vertical_flip"]))
def test_mirroring_twice_changes_nothing(sample: Sample, seed: int, way: str) -> None:
    config = AugmentConfig.model_validate({"flip": 0.0, way: 1.0})
    rng = np.random.default_rng(seed)
    once = augment(sample, config, rng, lambda _: sample, FILL)
    twice = augment(once, config, rng, lambda _: sample, FILL)
    assert np.array_equal(twice.pixels, sample.pixels)
    assert np.array_equal(twice.boxes, sample.boxes)
