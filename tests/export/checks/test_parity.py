import json

import numpy as np
import pytest

from export.checks.parity import Gate, compare_detections, draw_difference, unstable
from export.detections import Candidates, Detections
from export.engine import Engine, open_engine
from tests.export.tiny import canvases


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
    assert parity.ok(Gate(score_tolerance=0.1, box_tolerance_px=2))


def test_a_box_without_partner_is_missing_and_one_too_many_is_extra():
    other_class = (0, 0, 10, 10, 0.9, 1)
    parity = compare_detections([picture(CAT, DOG)], [picture(other_class, DOG)])
    assert (parity.matched, parity.missing, parity.extra) == (1, 1, 1)
    assert not parity.ok(Gate(1, 1000))


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


def test_a_gate_lets_a_share_of_detections_lack_a_close_partner():
    many = [(20 * i, 0, 20 * i + 10, 10, 0.9, 0) for i in range(10)]
    parity = compare_detections([picture(*many)], [picture(*many[1:])])
    assert not parity.ok(Gate(unmatched_share=0.09))
    assert parity.ok(Gate(unmatched_share=0.1))
    moved = [(5, 0, 13, 10, 0.9, 0), *many[1:]]  # a pair still, 5 pixels apart
    assert not compare_detections([picture(*many)], [picture(*moved)]).ok(Gate())
    assert compare_detections([picture(*many)], [picture(*moved)]).ok(Gate(unmatched_share=0.1))


def test_lost_and_extra_boxes_are_counted_by_score_band():
    lost, more = (0, 0, 10, 10, 0.5, 0), (50, 50, 90, 90, 0.24, 1)
    sure = (20, 20, 30, 30, 1.0, 0)
    bands = compare_detections([picture(lost, sure)], [picture(more, sure)]).to_dict()["bands"]
    assert [band["from"] for band in bands] == [0.05, 0.25, 0.5, 0.75]
    assert [band["reference"] for band in bands] == [0, 0, 1, 1]
    assert [band["missing"] for band in bands] == [0, 0, 1, 0]
    assert [band["extra"] for band in bands] == [1, 0, 0, 0]


def test_the_dictionary_is_json_and_tells_the_overlap():
    # 10 x 10 against 10 x 8 inside it: IoU 0.8.
    values = compare_detections([picture(CAT)], [picture((0, 0, 10, 8, 0.9, 0))]).to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["mean_iou"] == values["min_iou"] == pytest.approx(0.8)
    empty = compare_detections([], []).to_dict()
    assert (empty["matched"], empty["mean_iou"]) == (0, 1.0)


@pytest.mark.parametrize("model", ["static_model", "dynamic_model"])
def test_an_exported_graph_depends_on_the_picture_alone(request, model):
    with open_engine(request.getfixturevalue(model), threads=1) as engine:
        assert unstable(engine, canvases(3)) == []


class Moody:
    """An engine whose boxes depend on the place in the batch, and on how often it was called."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.manifest, self.calls = engine, engine.manifest, 0
        self.device = engine.device

    def candidates(self, images):
        self.calls += 1
        found = self.engine.candidates(images)
        places = np.arange(len(images), dtype=np.float32)[:, None]
        scores = (found.scores - places / 10 - self.calls / 1e4).astype(np.float32)
        return Candidates(found.boxes, scores, found.labels)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_an_engine_that_depends_on_more_is_caught(dynamic_model):
    with open_engine(dynamic_model, threads=1) as engine:
        problems = unstable(Moody(engine), canvases(3))
    assert "when it is passed again" in problems[0]
    assert "turned by 1, give other boxes than alone" in problems[2]


def test_the_difference_is_drawn_side_by_side():
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    drawn = draw_difference(pixels, picture(CAT), picture(), ["cat"])
    assert drawn.shape == (40, 120, 3)
    assert drawn[:, :60].any()
    assert not drawn[:, 60:].any()


def test_two_lists_of_other_lengths_are_a_mistake():
    with pytest.raises(ValueError, match="2 pictures against 1"):
        compare_detections([picture(), picture()], [picture()])
