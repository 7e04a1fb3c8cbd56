import numpy as np
import pytest

from export.detections import Detections
from export.parity import compare_detections


def picture(*rows) -> Detections:
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


CAT, DOG = (0, 0, 10, 10, 0.9, 0), (50, 50, 90, 90, 0.8, 1)


def test_the_same_detections_in_another_order_are_equal():
    parity = compare_detections([picture(CAT, DOG)], [picture(DOG, CAT)])
    assert (parity.matched, parity.missing, parity.extra) == (2, 0, 0)
    assert parity.max_score_difference == parity.max_box_difference_px == 0
    assert parity.worst_image is None
    assert parity.ok()


def test_differences_are_those_of_the_pairs():
    moved = (50, 50.25, 90, 91, 0.75, 1)
    parity = compare_detections([picture(CAT), picture(DOG)], [picture(CAT), picture(moved)])
    assert parity.max_box_difference_px == 1
    assert parity.max_score_difference == pytest.approx(0.05, abs=1e-6)
    assert parity.worst_image == 1
    assert not parity.ok()
    assert parity.ok(score_tolerance=0.1, box_tolerance_px=2)


def test_a_box_without_partner_is_missing_and_one_too_many_is_extra():
    other_class = (0, 0, 10, 10, 0.9, 1)
    parity = compare_detections([picture(CAT, DOG)], [picture(other_class, DOG)])
    assert (parity.matched, parity.missing, parity.extra) == (1, 1, 1)
    assert not parity.ok(1, 1000)


def test_tied_scores_do_not_cross():
    # Two cats of the same score that overlap by more than one half: by score alone the pairs
    # could be taken crosswise, 2 pixels apart.
    twins = [(0, 0, 10, 10, 0.5, 0), (2, 0, 12, 10, 0.5, 0)]
    parity = compare_detections([picture(*twins)], [picture(*twins[::-1])])
    assert parity.matched == 2
    assert parity.ok()


def test_a_score_on_either_side_of_the_floor_is_not_missing():
    above, below = (0, 0, 10, 10, 0.0501, 0), (0, 0, 10, 10, 0.0499, 0)
    assert compare_detections([picture(above)], [picture(below)]).ok()
    assert compare_detections([picture(below)], [picture(above)]).ok()


def test_what_scores_below_the_floor_is_not_counted():
    faint = (0, 0, 10, 10, 0.01, 0)
    parity = compare_detections([picture(faint)], [picture()])
    assert (parity.matched, parity.missing) == (0, 0)
    assert compare_detections([picture()], [picture()]).ok()


def test_the_dictionary_holds_floats():
    values = compare_detections([picture(CAT)], [picture(CAT)]).to_dict()
    assert values["matched"] == 1.0
    assert all(type(value) is float for value in values.values())


def test_two_lists_of_other_lengths_are_a_mistake():
    with pytest.raises(ValueError, match="2 pictures against 1"):
        compare_detections([picture(), picture()], [picture()])
