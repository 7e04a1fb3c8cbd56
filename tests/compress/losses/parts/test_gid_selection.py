"""GID's choice of instances, by hand."""

import pytest
import torch

from compress.detector import Dense
from compress.losses.parts.gid_selection import rank_locations, select_instances


def logit(*probabilities):
    return torch.tensor(probabilities).logit()


def dense(scores, boxes):
    """One class; scores per picture and location as probabilities, boxes likewise."""
    boxes = torch.tensor(boxes, dtype=torch.float32)
    logits = torch.tensor(scores).logit()[..., None]
    return Dense(logits, torch.zeros_like(boxes), boxes, lambda _: torch.zeros(0))


def select(disagreement, boxes, size=(100, 100), **changes):
    """The student scores 0.01 everywhere, the teacher so much more; both have the same boxes."""
    settings = {"limit": 10, "iou": 0.3, "pre_nms": 3000, "min_size_px": 10.0} | changes
    student = dense([[0.01] * len(disagreement)], [boxes])
    teacher = dense([[0.01 + d for d in disagreement]], [boxes])
    return select_instances(student, teacher, torch.tensor([size]), **settings)


def apart(count, side=20):
    """Boxes in a row that do not touch."""
    return [[30 * i, 0, 30 * i + side, side] for i in range(count)]


def locations(found):
    return found.locations[0].tolist()


class TestRanking:
    # Teacher (0.9, 0.5), student (0.2, 0.8): class by class 0.7 and 0.3, by the best 0.1.
    # The teacher's best is higher; at the class of the largest difference too.
    # Second location: teacher (0.1, 0.6), student (0.7, 0.5): 0.6 and 0.1; by the best 0.1; the
    # student is the surer one on both counts.
    # Third: teacher (0.3, 0.95), student (0.9, 0.6): 0.6 and 0.35; the teacher's best is higher,
    # but at the first class the student's score is.
    TEACHER = torch.tensor([[[0.9, 0.5], [0.1, 0.6], [0.3, 0.95]]])
    STUDENT = torch.tensor([[[0.2, 0.8], [0.7, 0.5], [0.9, 0.6]]])

    def rank(self, score, box_from, teacher=TEACHER, student=STUDENT):
        places = teacher.shape[1]
        disagreement, boxes = rank_locations(
            student.logit(),
            teacher.logit(),
            torch.zeros(1, places, 4),
            torch.ones(1, places, 4),
            score=score,
            box_from=box_from,
        )
        return disagreement[0], boxes[0, :, 0].bool().tolist()

    def test_the_published_score_compares_class_by_class(self):
        disagreement, _ = self.rank("class", "max")
        torch.testing.assert_close(disagreement, torch.tensor([0.7, 0.6, 0.6]))

    def test_the_released_score_compares_the_best(self):
        disagreement, _ = self.rank("max", "max")
        torch.testing.assert_close(disagreement, torch.tensor([0.1, 0.1, 0.05]))

    def test_the_box_is_the_surer_sides(self):
        assert self.rank("class", "max")[1] == [True, False, True]
        assert self.rank("max", "max")[1] == [True, False, True]

    def test_or_the_surer_sides_at_the_class_of_the_largest_difference(self):
        assert self.rank("class", "class")[1] == [True, False, False]

    def test_on_equal_scores_the_box_is_the_students_or_by_class_the_teachers(self):
        same = torch.tensor([[[0.5, 0.4]]])
        assert self.rank("class", "max", same, same)[1] == [False]
        assert self.rank("class", "class", same, same)[1] == [True]


def test_instances_come_in_descending_disagreement_and_are_cut_at_the_limit():
    found = select([0.1, 0.4, 0.2, 0.3], apart(4), size=(100, 200), limit=3)
    assert locations(found) == [1, 3, 2]
    assert found.boxes[0].tolist() == [[30, 0, 50, 20], [90, 0, 110, 20], [60, 0, 80, 20]]
    torch.testing.assert_close(found.scores[0], torch.tensor([0.4, 0.3, 0.2]))


def test_of_equal_scores_the_first_location_wins():
    boxes = apart(4)
    assert locations(select([0.2] * 4, boxes, size=(100, 200), limit=2)) == [0, 1]
    assert locations(select([0.2] * 4, [boxes[0]] * 4, limit=2)) == [0]
    assert locations(select([0.2] * 4, boxes, size=(100, 200), limit=9, pre_nms=3)) == [0, 1, 2]


def test_only_the_best_enter_the_suppression():
    # The two best are one object; the third enters only if three may.
    boxes = [[0, 0, 20, 20], [1, 0, 21, 20], [40, 0, 60, 20]]
    assert locations(select([0.9, 0.8, 0.1], boxes, pre_nms=2)) == [0]
    assert locations(select([0.9, 0.8, 0.1], boxes, pre_nms=3)) == [0, 2]


def test_small_boxes_take_their_places_before_they_are_dropped():
    boxes = [[0, 0, 5, 5], [40, 0, 60, 20]]
    assert locations(select([0.9, 0.1], boxes, pre_nms=1)) == []


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ([0, 0, 10, 30], False),  # exactly the limit
        ([0, 0, 30, 10], False),
        ([0, 0, 10.5, 10.5], True),
        ([-20, 0, 10.5, 30], True),  # 10.5 wide after clipping
        ([-20, 0, 9, 30], False),
        ([92, 0, 130, 30], False),  # clipped at 100: 8 wide
        ([0, 42, 30, 90], False),  # clipped at 50: 8 high
        ([200, 0, 230, 30], False),
    ],
)
def test_the_size_counts_after_clipping_to_the_picture(box, kept):
    assert locations(select([0.5], [box], size=(50, 100))) == ([0] if kept else [])


def test_boxes_are_clipped_to_the_pictures_own_size():
    boxes = [[[-5, -5, 60, 90]], [[-5, -5, 60, 90]]]
    student, teacher = dense([[0.1], [0.1]], boxes), dense([[0.9], [0.9]], boxes)
    sizes = torch.tensor([[80, 50], [40, 100]])
    found = select_instances(
        student, teacher, sizes, limit=5, iou=0.3, pre_nms=10, min_size_px=10.0
    )
    assert [own.tolist() for own in found.boxes] == [[[0, 0, 50, 80]], [[0, 0, 60, 40]]]


def test_a_box_goes_when_it_overlaps_a_better_one_by_more_than_the_limit():
    boxes = [[0, 0, 20, 20], [0, 0, 20, 40]]  # IoU 400 / 800
    assert locations(select([0.9, 0.8], boxes, iou=0.5)) == [0, 1]
    assert locations(select([0.9, 0.8], boxes, iou=0.49)) == [0]


def test_a_suppressed_box_suppresses_nothing():
    # The middle one overlaps both, the outer ones do not overlap.
    boxes = [[0, 0, 20, 20], [10, 0, 30, 20], [20, 0, 40, 20]]
    assert locations(select([0.9, 0.8, 0.7], boxes, iou=0.3)) == [0, 2]


def test_a_picture_may_have_no_instance():
    large, tiny = [[0, 0, 30, 30]], [[0, 0, 3, 3]]
    student = dense([[0.1], [0.1]], [tiny, large])
    teacher = dense([[0.9], [0.9]], [tiny, large])
    sizes = torch.tensor([[50, 50]] * 2)
    found = select_instances(student, teacher, sizes, limit=5, iou=0.3, pre_nms=9, min_size_px=9)
    assert found.counts == [0, 1]
    assert found.boxes[0].shape == (0, 4)


def test_the_default_form_clips_and_filters_too():
    # Class by class, the first location disagrees by 0.6 and the second by 0.1; the first one's
    # surer side is the student, whose box is too small once clipped.
    student = Dense(
        torch.tensor([[[0.9, 0.1], [0.2, 0.3]]]).logit(),
        torch.zeros(1, 2, 4),
        torch.tensor([[[-20.0, 0.0, 8.0, 20.0], [0.0, 0.0, 20.0, 20.0]]]),
        lambda _: torch.zeros(0),
    )
    teacher = Dense(
        torch.tensor([[[0.3, 0.1], [0.2, 0.4]]]).logit(),
        torch.zeros(1, 2, 4),
        torch.tensor([[[0.0, 0.0, 40.0, 40.0], [5.0, 5.0, 90.0, 30.0]]]),
        lambda _: torch.zeros(0),
    )
    sizes = torch.tensor([[40, 60]])
    found = select_instances(student, teacher, sizes, limit=5, iou=0.3, pre_nms=9, min_size_px=10.0)
    assert found.boxes[0].tolist() == [[5, 5, 60, 30]]
    torch.testing.assert_close(found.scores[0], torch.tensor([0.1]))


def test_no_gradient_passes_through_the_choice():
    student = dense([[0.1]], [[[0, 0, 30, 30]]])
    student.class_logits.requires_grad_()
    found = select_instances(
        student, student, torch.tensor([[50, 50]]), limit=5, iou=0.3, pre_nms=9, min_size_px=9
    )
    assert not found.boxes[0].requires_grad
    assert not found.scores[0].requires_grad
