from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from compress.data.augment import AugmentConfig, Sample, augment

STILL: dict[str, Any] = {"flip": 0.0}


def _sample(height: int = 20, width: int = 30) -> Sample:
    """A picture of `height` x `width` in a 32 x 32 canvas, one bright 6 x 4 object at (3, 5)."""
    pixels = np.full((32, 32, 3), 114, dtype=np.uint8)
    pixels[:height, :width] = 10
    pixels[5:9, 3:9] = 250
    boxes = np.array([[3, 5, 9, 9]], dtype=np.float32)
    return Sample(pixels, boxes, np.array([2]), height, width)


def _run(sample: Sample, seed: int = 0, **settings: Any) -> Sample:
    config = AugmentConfig(**(STILL | settings))
    return augment(sample, config, np.random.default_rng(seed), _none)


def _none(number: int) -> Sample:
    raise AssertionError(number)


def _bright(sample: Sample) -> tuple[int, int, int, int]:
    """The xyxy box of the bright pixels."""
    rows, columns = np.nonzero(sample.pixels[..., 0] > 180)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize(
    ("settings", "box"),
    [
        ({"flip": 1.0}, [21, 5, 27, 9]),  # 30 - 9, 30 - 3
        ({"vertical_flip": 1.0}, [3, 11, 9, 15]),  # 20 - 9, 20 - 5
        ({"transpose": 1.0}, [5, 3, 9, 9]),
        ({"flip": 1.0, "transpose": 1.0}, [5, 21, 9, 27]),
    ],
)
def test_mirroring_moves_box_and_pixels_within_the_picture(
    settings: dict[str, Any], box: list[int]
) -> None:
    result = _run(_sample(), **settings)
    assert result.boxes.tolist() == [box]
    assert list(_bright(result)) == box
    outside = result.pixels.copy()
    outside[: result.height, : result.width] = 114
    assert (outside == 114).all()
    assert result.labels.tolist() == [2]


def test_transposing_swaps_height_and_width() -> None:
    result = _run(_sample(20, 30), transpose=1.0)
    assert (result.height, result.width) == (30, 20)


def test_nothing_happens_unless_asked_for() -> None:
    sample = _sample()
    result = _run(sample)
    assert result.pixels is sample.pixels
    assert result.boxes is sample.boxes


def test_zooming_out_keeps_the_picture_inside_and_pads() -> None:
    result = _run(_sample(), scale=(0.5, 0.5), min_box_px=0.0)
    assert (result.height, result.width) == (20, 30)
    x1, y1, x2, y2 = result.boxes[0].tolist()
    assert (x2 - x1, y2 - y1) == pytest.approx((3, 2))
    inner = result.pixels[:20, :30]
    assert (inner == 114).all(axis=2).sum() == 600 - 15 * 10
    assert np.abs(np.array(_bright(result)) - [x1, y1, x2, y2]).max() <= 1


def test_zooming_in_crops_and_keeps_boxes_on_their_object() -> None:
    kept = 0
    for seed in range(60):
        result = _run(_sample(), seed, scale=(2.0, 2.0), min_visible=0.9)
        if len(result.boxes):
            kept += 1
            assert np.abs(np.array(_bright(result)) - result.boxes[0]).max() <= 1.5
            assert np.ptp(result.boxes[0][[0, 2]]) <= 12.01
    assert 1 <= kept <= 20  # the corner must fall within 3 of 15 columns and 5 of 10 rows


def test_a_box_that_a_crop_mostly_removes_is_left_out() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 10, 30, 20]], dtype=np.float32)
    sample = Sample(np.zeros((32, 32, 3), np.uint8), boxes, np.array([0, 1]), 20, 30)
    for seed in range(30):
        result = _run(sample, seed, scale=(1.5, 1.5), min_visible=0.5)
        for box in result.boxes:  # 10 x 10 at 1.5 is 225
            assert (box[2] - box[0]) * (box[3] - box[1]) >= 0.499 * 225


def test_boxes_below_the_least_side_are_left_out() -> None:
    assert len(_run(_sample(), min_box_px=4.0).boxes) == 1  # 6 x 4
    assert len(_run(_sample(), min_box_px=4.5).boxes) == 0


def test_colour_changes_the_picture_and_neither_padding_nor_boxes() -> None:
    result = _run(_sample(), color=0.5)
    assert (result.pixels[20:] == 114).all()
    assert (result.pixels[:, 30:] == 114).all()
    assert not np.array_equal(result.pixels, _sample().pixels)
    assert result.boxes.tolist() == [[3, 5, 9, 9]]


def test_a_mosaic_fills_the_canvas_from_four_pictures() -> None:
    def shade(value: int) -> Sample:
        pixels = np.full((32, 32, 3), value, dtype=np.uint8)
        boxes = np.array([[0, 0, 32, 32]], dtype=np.float32)
        return Sample(pixels, boxes, np.array([value]), 32, 32)

    asked: list[int] = []

    def another(number: int) -> Sample:
        asked.append(number)
        return shade(100 + len(asked))

    config = AugmentConfig(flip=0.0, mosaic=1.0, min_visible=0.0)
    result = augment(shade(100), config, np.random.default_rng(0), another)
    assert len(asked) == 3
    assert (result.height, result.width) == (32, 32)
    assert result.labels.tolist() == [100, 101, 102, 103]
    for box, label in zip(result.boxes.astype(int), result.labels, strict=True):
        assert (result.pixels[box[1] : box[3], box[0] : box[2]] == label).all()
    assert sum(((b[2] - b[0]) * (b[3] - b[1])) for b in result.boxes.tolist()) == 32 * 32


def test_a_mosaic_of_oblong_pictures_keeps_boxes_on_their_objects() -> None:
    another: Callable[[int], Sample] = lambda _: _sample()  # noqa: E731
    config = AugmentConfig(flip=0.5, mosaic=1.0, min_visible=1.0)
    found = 0
    for seed in range(10):
        result = augment(_sample(), config, np.random.default_rng(seed), another)
        for x1, y1, x2, y2 in result.boxes.round().astype(int).tolist():
            found += 1
            assert result.pixels[(y1 + y2) // 2, (x1 + x2) // 2, 0] > 150
    assert found > 10


def test_the_input_is_never_changed() -> None:
    sample, before = _sample(), _sample()
    sample.pixels.flags.writeable = False
    sample.boxes.flags.writeable = False
    config = AugmentConfig(
        flip=1.0, vertical_flip=1.0, transpose=1.0, scale=(0.5, 2.0), color=0.3, mosaic=0.5
    )
    for seed in range(8):
        augment(sample, config, np.random.default_rng(seed), lambda _: sample)
    assert np.array_equal(sample.pixels, before.pixels)


def test_a_picture_without_boxes_passes() -> None:
    empty = Sample(_sample().pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 20, 30)
    config = AugmentConfig(flip=1.0, vertical_flip=1.0, scale=(0.5, 2.0), mosaic=1.0)
    for seed in range(4):
        result = augment(empty, config, np.random.default_rng(seed), lambda _: empty)
        assert result.boxes.shape == (0, 4)


@pytest.mark.parametrize("settings", [{"scale": (2.0, 1.0)}, {"flip": 1.5}, {"color": -0.1}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AugmentConfig(**settings)


@pytest.mark.parametrize(
    ("share", "total", "steps"),
    [(0.0, 100, 100), (0.1, 100, 90), (1.0, 7, 0), (0.1, 4, 4), (0.1, 30, 27), (0.5, 1, 1)],
)
def test_mosaics_end_before_the_last_share_of_the_training(
    share: float, total: int, steps: int
) -> None:
    assert AugmentConfig(mosaic=1.0, close_mosaic=share).mosaic_steps(total) == steps


def test_epochs_in_place_of_a_share_are_refused_with_the_share_to_write() -> None:
    with pytest.raises(ValidationError, match=r"a share .* found 10\. The last 10 of 100 epochs"):
        AugmentConfig(mosaic=1.0, close_mosaic=10)
