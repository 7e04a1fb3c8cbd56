import numpy as np

from export.detections import Detections
from export.draw import class_colour, draw_boxes


def one(box, label=0) -> Detections:
    return Detections(
        np.array([box], dtype=np.float32),
        np.array([0.5], dtype=np.float32),
        np.array([label], dtype=np.int32),
    )


def test_a_box_is_drawn_in_the_colour_of_its_class_on_a_copy():
    pixels = np.zeros((120, 160, 3), dtype=np.uint8)
    drawn = draw_boxes(pixels, one((20, 60, 100, 110), label=1), ["cat", "dog"])
    assert tuple(drawn[110, 60]) == class_colour(1)
    assert (drawn[80:100, 40:80] == 0).all()  # the object itself stays visible
    assert (pixels == 0).all()


def test_a_label_stays_inside_the_picture():
    pixels = np.zeros((60, 120, 3), dtype=np.uint8)
    for box in ((0, 0, 30, 20), (100, 0, 119, 59), (-5, 40, 10, 80)):
        drawn = draw_boxes(pixels, one(box), ["a long class name"])
        coloured = (drawn == class_colour(0)).all(axis=-1)
        # The label's ground: far more coloured pixels than the thin frame alone has.
        assert coloured.sum() > 800


def test_no_detections_leave_the_picture_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    assert (draw_boxes(pixels, none, ["cat"]) == pixels).all()


def test_more_classes_than_colours_are_drawn():
    drawn = draw_boxes(
        np.zeros((50, 50, 3), dtype=np.uint8),
        one((5, 25, 40, 45), label=99),
        [f"class {index}" for index in range(100)],
        show_scores=False,
    )
    assert drawn.any()
