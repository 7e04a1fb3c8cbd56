import unicodedata

import numpy as np
import pytest

from compress.teaching.classes import in_section, match_classes
from compress.teaching.coco_names import COCO, by_category_id
from export.errors import RecipeError

TEACHER = in_section("teacher")
BOXES = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 10]], np.float32)


def test_classes_of_one_name_match_in_any_order_and_unicode_form() -> None:
    match = match_classes(
        ("café", "car"),
        ("car", "dog", unicodedata.normalize("NFD", "café")),
        {},
        TEACHER,
    )
    assert match.label_of == (1, None, 0)
    assert match.lines() == [
        "2 of the student's 2 classes taught",
        "of the teacher alone, left out: dog",
    ]


def test_a_mapped_class_takes_what_the_map_says_and_no_more() -> None:
    match = match_classes(
        ("person", "bus"),
        ("person", "pedestrian", "rider"),
        {"person": ["pedestrian", "rider"]},
        TEACHER,
    )
    assert match.label_of == (None, 0, 0)
    assert match.untaught == ("bus",)
    assert match.unused == ("person",)
    assert "person takes pedestrian and rider" in match.lines()


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ({"persn": ["rider"]}, r"teacher\.class_map: 'persn' is not a class of the student"),
        ({"person": ["ridr"]}, r"class_map\.person: 'ridr' is not a class of the teacher"),
        ({"person": ["rider"], "car": ["rider"]}, "'rider' is given to person and to car"),
    ],
)
def test_a_map_of_unknown_or_doubled_names_is_refused(
    class_map: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        match_classes(("person", "car"), ("rider", "walker"), class_map, TEACHER)


def test_a_teacher_of_no_common_class_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"class_map, such as \{person: \[dog\]\}"):
        match_classes(("person",), ("dog", "cat"), {}, TEACHER)


def test_boxes_of_unknown_classes_go_and_the_best_comes_first() -> None:
    match = match_classes(("a", "b"), ("b", "other", "a"), {}, TEACHER)
    found = match.in_students_classes(
        BOXES, np.array([0, 1, 2, 2]), np.array([0.2, 0.9, 0.4, 0.5], np.float32)
    )
    assert found.labels.tolist() == [0, 0, 1]
    assert found.scores.tolist() == pytest.approx([0.5, 0.4, 0.2])
    assert found.boxes[0].tolist() == [0, 0, 10, 10]


def test_one_object_under_two_merged_classes_is_one_box() -> None:
    match = match_classes(("a", "b"), ("x", "y", "b"), {"a": ["x", "y"]}, TEACHER)
    # boxes 0 and 1 share 9/11 of their area; box 3 is box 0 under the unmerged class b
    found = match.in_students_classes(
        BOXES, np.array([0, 1, 1, 2]), np.array([0.3, 0.6, 0.5, 0.1], np.float32)
    )
    assert found.labels.tolist() == [0, 0, 1]
    assert found.scores.tolist() == pytest.approx([0.6, 0.5, 0.1])


def test_coco_has_80_names_and_91_by_category_id() -> None:
    assert len(set(COCO)) == 80
    names = by_category_id()
    assert len(set(names)) == 91
    assert (names[1], names[13], names[90]) == ("person", "stop sign", "toothbrush")
