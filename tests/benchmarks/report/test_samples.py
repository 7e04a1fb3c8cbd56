import numpy as np
from PIL import Image

from benchmarks.accuracy.evaluate import predict
from benchmarks.report.samples import CELL, HEADER, MARGIN, sample_grid, sample_pictures
from tests.benchmarks.bright_boxes import BrightEngine, bright_set


def cells(path, row):
    """Pixels of each cell of a row."""
    sheet = np.asarray(Image.open(path))
    top = HEADER + row * (CELL + MARGIN)
    count = sheet.shape[1] // (CELL + MARGIN)
    lefts = [MARGIN + column * (CELL + MARGIN) for column in range(count)]
    return [sheet[top : top + CELL, left : left + CELL] for left in lefts]


def test_a_column_shows_the_boxes_of_its_model_above_the_threshold(tmp_path):
    images = bright_set(2)
    found = predict(BrightEngine(), images)  # scores of 0.9
    shown, hidden = (
        sample_grid(images, [0, 1], {"student": found, "none": []}, threshold, tmp_path / name)
        for threshold, name in ((0.25, "a.png"), (0.95, "b.png"))
    )
    for row in (0, 1):
        truth, student, none = cells(shown, row)
        assert not np.array_equal(student, none)
        assert not np.array_equal(truth, none)
        assert np.array_equal(cells(hidden, row)[1], none)


def test_pictures_with_objects_are_shown_spread_over_the_set():
    assert sample_pictures(bright_set(13), 6) == [0, 2, 4, 6, 8, 10]
    assert sample_pictures(bright_set(3), 6) == [0, 1, 2]
