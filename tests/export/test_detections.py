import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from export.artifact.manifest import NmsSpec
from export.detections import Candidates, Detections, select_detections, to_photograph
from export.pictures.images import fit


def candidates(boxes, scores, labels) -> Candidates:
    """One picture."""
    return Candidates(
        np.array([boxes], dtype=np.float32).reshape(1, -1, 4),
        np.array([scores], dtype=np.float32),
        np.array([labels], dtype=np.int32),
    )


# B overlaps A by 8 of 12: IoU 2/3. C overlaps B by 8 of 12, and A by 6 of 14.
A, B, C = (0, 0, 10, 1), (2, 0, 12, 1), (4, 0, 14, 1)


def test_a_box_that_overlaps_a_better_one_is_dropped():
    found = select_detections(candidates([B, A], [0.5, 0.9], [0, 0]), NmsSpec(iou=0.6), 0.1)[0]
    assert found.boxes.tolist() == [list(A)]
    assert found.scores.tolist() == [np.float32(0.9)]


def test_a_dropped_box_drops_nothing():
    # A removes B (2/3 > 0.6); C overlaps the kept A by 6/14 only, so it stays.
    found = select_detections(
        candidates([A, B, C], [0.9, 0.8, 0.7], [0, 0, 0]), NmsSpec(iou=0.6), 0.1
    )[0]
    assert found.boxes.tolist() == [list(A), list(C)]


def test_an_overlap_of_exactly_the_limit_stays():
    # Half of each other's 2 x 1: shared 1, union 2, IoU 1/2.
    pair = candidates([(0, 0, 2, 1), (0, 0, 1, 1)], [0.9, 0.8], [0, 0])
    assert len(select_detections(pair, NmsSpec(iou=0.5), 0.1)[0].scores) == 2
    assert len(select_detections(pair, NmsSpec(iou=0.49), 0.1)[0].scores) == 1


def test_classes_do_not_suppress_each_other():
    found = select_detections(candidates([A, A], [0.9, 0.8], [0, 1]), NmsSpec(), 0.1)[0]
    assert found.labels.tolist() == [0, 1]


def test_a_score_must_be_above_the_threshold():
    found = select_detections(
        candidates([A, C, (90, 90, 99, 99)], [0.25, 0.5, -1], [0, 0, 0]), NmsSpec(), 0.25
    )[0]
    assert found.scores.tolist() == [0.5]


def test_ties_go_by_index_and_no_more_stay_than_asked_for():
    boxes = [(20 * i, 0, 20 * i + 10, 10) for i in range(5)]
    found = select_detections(
        candidates(boxes, [0.5, 0.9, 0.5, 0.5, 0.5], [0] * 5), NmsSpec(max_detections=3), 0.1
    )[0]
    assert found.boxes[:, 0].tolist() == [20, 0, 40]


@pytest.mark.parametrize("mode", ["none", "graph"])
def test_without_host_nms_boxes_are_only_sorted_and_counted(mode):
    nms = NmsSpec(mode=mode, max_detections=2)
    found = select_detections(candidates([A, A, A], [0.3, 0.9, 0.5], [0, 0, 0]), nms, 0.1)[0]
    assert found.scores.tolist() == [np.float32(0.9), 0.5]


def test_pictures_do_not_touch_each_other():
    both = Candidates(
        np.array([[A], [A]], dtype=np.float32),
        np.array([[0.9], [0.05]], dtype=np.float32),
        np.array([[0], [1]], dtype=np.int32),
    )
    first, second = select_detections(both, NmsSpec(), 0.1)
    assert first.labels.tolist() == [0]
    assert second.boxes.shape == (0, 4)


def test_boxes_without_area_are_kept_in_silence():
    point = (5, 5, 5, 5)
    found = select_detections(candidates([point, point], [0.9, 0.8], [0, 0]), NmsSpec(), 0.1)[0]
    assert len(found.scores) == 2


@pytest.mark.parametrize("seed", range(4))
def test_the_result_is_that_of_torchvision(seed):
    generator = np.random.default_rng(seed)
    count = 1500
    corners = generator.uniform(0, 200, (count, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(5, 80, (count, 2))], axis=1)
    scores = generator.permutation(np.linspace(0.002, 1, count))  # no ties
    labels = generator.integers(0, 3, count)
    given = candidates(boxes.tolist(), scores, labels)
    nms = NmsSpec(iou=0.55, max_detections=100)
    found = select_detections(given, nms, 0.001)[0]
    expected = batched_nms(
        torch.from_numpy(given.boxes[0]),
        torch.from_numpy(given.scores[0]),
        torch.from_numpy(given.labels[0]),
        0.55,
    )[:100].numpy()
    assert found.scores.tolist() == given.scores[0][expected].tolist()
    assert found.boxes.tolist() == given.boxes[0][expected].tolist()


def test_detections_return_to_the_photograph_and_the_margin_is_dropped():
    # 640 x 480 in a 320 x 320 input covers 240 rows; the second box lies below them.
    found = Detections(
        np.array([[10, 20, 330, 60], [0, 250, 50, 300]], dtype=np.float32),
        np.array([0.9, 0.8], dtype=np.float32),
        np.array([1, 0], dtype=np.int32),
    )
    back = to_photograph(found, fit(640, 480, 320, 320), 640, 480)
    assert back.boxes.tolist() == [[20, 40, 640, 120]]
    assert back.labels.tolist() == [1]
    assert back.boxes.dtype == np.float32
