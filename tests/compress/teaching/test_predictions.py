import json
from pathlib import Path
from typing import Any

import pytest

from compress.recipe_file import load_model
from compress.teaching.accuracy import accuracy_of
from compress.teaching.classes import in_section
from compress.teaching.config import PredictionsTeacher
from compress.teaching.predictions.reading import Predicted, read_predictions
from export.errors import DataError, RecipeError
from tests.compress.teaching.sets import labeled_set

TRAIN = labeled_set(["a.jpg", "b.jpg", "c.jpg"])
HERE = in_section("recipe.yaml:7: teacher")


def entry(image: Any = 1, box: Any = (20, 20, 10, 10), score: Any = 0.9, **more: Any) -> Any:
    box = list(box) if isinstance(box, tuple) else box
    return {"image_id": image, "category_id": 1, "bbox": box, "score": score, **more}


def read(tmp_path: Path, content: Any, *, sets: Any = None, **settings: Any) -> Predicted:
    file = tmp_path / "results.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    given = {"type": "predictions", "file": str(file), **settings}
    config = PredictionsTeacher.model_validate_json(json.dumps(given))
    return read_predictions(config, sets or {"train": TRAIN}, HERE)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([entry(1)], [entry(2), entry(1)], "has boxes of image_id 1, and so has"),
        ([entry("a.jpg")], [entry("a.jpg")], "has boxes of image_id 'a.jpg', and so has"),
        ([entry(1)], None, "is given twice"),
        (
            {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [entry(7)]},
            [entry(2)],
            "does not say what its image_id 2 is, and another file says",
        ),
    ],
)
def test_files_whose_ids_may_mean_different_pictures_are_refused(
    tmp_path: Path, first: Any, second: Any, said: str
) -> None:
    other = tmp_path / ("results.json" if second is None else "other.json")
    other.write_text(json.dumps(second))
    files = [str(tmp_path / "results.json"), str(other)]
    with pytest.raises(DataError, match=said):
        read(tmp_path, first, file=files)


def test_files_of_different_pictures_are_read_together(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps([entry(3)]))
    files = [str(tmp_path / name) for name in ("results.json", "other.json")]
    found = read(tmp_path, [entry(1), entry(2)], file=files)
    assert [len(found.taught["train"].of(i).scores) for i in range(3)] == [1, 1, 1]


def test_results_become_corners_in_the_pictures_of_the_set(tmp_path: Path) -> None:
    found = read(tmp_path, [entry(2, (10, 20, 30, 40), 0.5), entry(2, category_id=2), entry(1)])
    boxes, labels, scores = found.taught["train"].of(1)
    assert boxes.tolist() == [[20, 20, 30, 30], [10, 20, 40, 60]]
    assert labels.tolist() == [1, 0]
    assert scores.tolist() == pytest.approx([0.9, 0.5])
    assert len(found.taught["train"].of(2).scores) == 0
    assert found.warnings[-1].startswith(
        "1 of 3 pictures of train have no box in the results (c.jpg)"
    )


def test_ap_of_boxes_on_the_objects_is_one_and_beside_them_nothing(tmp_path: Path) -> None:
    hits = read(tmp_path, [entry(number) for number in (1, 2, 3)])
    assert accuracy_of(hits.taught["train"], TRAIN).values["AP"] == pytest.approx(1)
    misses = read(tmp_path, [entry(number, (60, 60, 10, 10)) for number in (1, 2, 3)])
    assert accuracy_of(misses.taught["train"], TRAIN).values["AP"] == 0


def test_what_is_left_out_is_counted_by_its_reason(tmp_path: Path) -> None:
    rows = [
        entry(1),
        entry(99),  # of no picture of the data
        entry(1, (200, 20, 10, 10)),  # beside the picture of 100 x 80
        entry(1, (40, 20, 0, 10)),
        entry(1, (20, 20, 9, 9), 0.002),
        entry(2, (20, 20, 9, 9), 0.8),
        entry(2, (50, 20, 9, 9), 0.7),
        entry(2, (60, 20, 9, 9), 0.6, category_id=5),
    ]
    names = {"person": 1, "car": 2, "dog": 5}
    found = read(tmp_path, rows, categories=names, max_boxes=1)
    assert found.lines[0].endswith(
        "8 boxes, 2 pictures found by ids of the data; left out: 1 of other pictures, 2 outside "
        "their picture or without area, 1 below score_threshold, 1 of classes that the student "
        "does not have, or the same object twice, 1 beyond max_boxes of their picture"
    )
    assert "of the teacher alone, left out: dog" in found.lines
    assert found.taught["train"].of(1).scores.tolist() == pytest.approx([0.8])


@pytest.mark.parametrize(
    "row", [entry(score=0.001), entry(box=(200, 20, 10, 10)), entry(box=(20, 20, -5, -5))]
)
def test_results_of_which_no_box_is_left_are_refused(tmp_path: Path, row: Any) -> None:
    with pytest.raises(DataError, match=r"left out: 3 .*No box of a training picture is left"):
        read(tmp_path, [row] * 3)


@pytest.mark.parametrize(
    "key", ["b.jpg", "b", "images/B.JPG", r"set\b.jpg"], ids=["name", "stem", "path", "windows"]
)
def test_file_names_find_their_picture_however_they_are_written(tmp_path: Path, key: str) -> None:
    for row in (entry(key), entry(77, file_name=key)):
        found = read(tmp_path, [row])
        assert len(found.taught["train"].of(1).scores) == 1


def test_numbers_are_ids_or_the_numbers_in_file_names_whichever_fit(tmp_path: Path) -> None:
    numbered = labeled_set(["000009.jpg", "000025.jpg", "000002.jpg"])
    by_name = read(tmp_path, [entry(9), entry(25), entry(2)], sets={"train": numbered})
    assert "found by numbers in the files' names" in by_name.lines[0]
    assert [len(by_name.taught["train"].of(i).scores) for i in range(3)] == [1, 1, 1]
    by_id = read(tmp_path, [entry(1), entry(2), entry(3)], sets={"train": numbered})
    assert "found by ids of the data" in by_id.lines[0]
    with pytest.raises(DataError, match="are both ids of the data and numbers in the files' names"):
        read(tmp_path, [entry(2)], sets={"train": numbered})


def test_ids_that_pictures_of_two_sets_share_are_never_used(tmp_path: Path) -> None:
    footage = labeled_set(["x.jpg", "y.jpg"], name="unlabeled")
    both = {"train": TRAIN, "unlabeled": footage}
    with pytest.raises(DataError, match="of other pictures"):
        read(tmp_path, [entry(1)], sets=both)
    document = {
        "images": [{"id": 1, "file_name": "x.jpg"}, {"id": 2, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [entry(1, score=0.3), entry(2, score=0.6)],
    }
    found = read(tmp_path, document, sets=both)
    assert found.taught["unlabeled"].of(0).scores.tolist() == pytest.approx([0.3])
    assert found.taught["train"].of(0).scores.tolist() == pytest.approx([0.6])


def test_a_whole_name_comes_before_a_bare_one_that_two_sets_share(tmp_path: Path) -> None:
    first, second = labeled_set(["train/1.jpg"]), labeled_set(["val/1.jpg"], name="val")
    both = {"train": first, "unlabeled": second}
    found = read(tmp_path, [entry("val/1.jpg")], sets=both)
    assert [len(found.taught[one].of(0).scores) for one in ("train", "unlabeled")] == [0, 1]
    with pytest.raises(DataError, match="of other pictures"):  # of which folder is not said
        read(tmp_path, [entry("1.jpg")], sets=both)


def test_boxes_of_pictures_that_two_sets_share_are_counted_once(tmp_path: Path) -> None:
    again = labeled_set(["a.jpg"], name="unlabeled")
    rows = [entry("a.jpg"), entry("a.jpg", bbox=[1, 1, 9, 9]), entry("zz.jpg")]
    found = read(tmp_path, rows, sets={"train": TRAIN, "unlabeled": again})
    assert found.lines[0].endswith("left out: 1 of other pictures")


def test_annotations_say_what_the_ids_are(tmp_path: Path) -> None:
    other = tmp_path / "instances.json"
    categories = [{"id": 1, "name": "pedestrian"}, {"id": 3, "name": "car"}]
    images = [{"id": 501, "file_name": "c.jpg"}]
    other.write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    found = read(
        tmp_path,
        [entry(501)],
        annotations=str(other),
        class_map={"person": ["pedestrian"]},
    )
    assert found.taught["train"].of(2).labels.tolist() == [0]
    other.write_text("[]")
    with pytest.raises(DataError, match="expected a COCO file with `images` and `categories`"):
        read(tmp_path, [entry(501)], annotations=str(other))


def test_results_of_other_pictures_are_refused_with_examples_of_both(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none of its 2 pictures \(139, 285\) is one of the data's"
    ):
        read(tmp_path, [entry(139), entry(285)])
    with pytest.raises(DataError, match=r"\(z.jpg\) is one of the data's \(train: id 1 is a.jpg\)"):
        read(tmp_path, [entry("z.jpg")])


def test_results_of_other_classes_are_refused_with_the_ids_of_both(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"category_id 17 is not among the ids of the data .*1 'per"
    ):
        read(tmp_path, [entry(category_id=17)])
    with pytest.raises(RecipeError, match="no class of the teacher"):
        read(tmp_path, [entry()], categories={"dog": 1})


def boxes_of(form: str) -> list[Any]:
    rows = []
    for number in range(1, 4):
        for step in range(5):
            x, y, w, h = 40 + step, 30 + step, 30, 20
            box = {
                "corners": (x, y, x + w, y + h),
                "fractions": (x / 100, y / 80, w / 100, h / 80),
                "xywh": (x, y, w, h),
            }[form]
            rows.append(entry(number, box))
    return rows


def test_boxes_in_another_form_are_refused(tmp_path: Path) -> None:
    assert not read(tmp_path, boxes_of("xywh")).warnings
    with pytest.raises(DataError, match=r"look like .*corners x1 y1 x2 y2, where"):
        read(tmp_path, boxes_of("corners"))
    with pytest.raises(DataError, match="look like fractions of the picture's sides"):
        read(tmp_path, boxes_of("fractions"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"image_id": 1, "category_id": 1, "bb', "cannot be read as JSON: .*cut off"),
        ("", "cannot be read as JSON"),
        ([], "no results in it; expected COCO results"),
        ({"model": "x", "images": []}, "an object that holds 'model', 'images'; expected COCO"),
        (7, "found 7; expected COCO results"),
        ("null", r"found nothing \(null\); expected COCO results"),
        ([entry(), 5], r"results\[1\] is 5; expected COCO results"),
        ([entry(score=1.7)], r"results\[0\]: score 1.7; expected a number in 0..1$"),
        ([entry(score=87), entry(score=3)], "score 87; .*0..1; all 2 scores .* divide by 100"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": NaN}]', "score nan"),
        ([entry(score="0.9")], r"results\[0\]: score '0.9'"),
        ([entry(box=[1, 2, 3])], r"bbox \[1, 2, 3\]; expected four numbers"),
        ([entry(box=[1, 2, 3, None])], r"expected four numbers \[x, y, width, height\]"),
        ([entry(image=None)], "image_id None; expected a whole number or a file's name"),
        ([entry(category_id=1.5)], "category_id 1.5; expected a whole number"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}], r"results\[0\] has no score"),
    ],
)
def test_every_kind_of_broken_file_has_one_message(
    tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert "results.json" in str(caught.value)
    assert len(caught.value.args) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    config = PredictionsTeacher(type="predictions", file=tmp_path / "none.json")
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        read_predictions(config, {"train": TRAIN}, HERE)


def test_settings_are_read_from_a_recipes_yaml(tmp_path: Path) -> None:
    path = tmp_path / "teacher.yaml"
    path.write_text(
        "type: predictions\nfile: results.json\ncategories: {person: 1, no: 3}\n"
        "class_map: {person: [pedestrian, no]}\n"
    )
    config, _ = load_model(PredictionsTeacher, path, ["max_boxes=7"])
    assert config.files == (Path("results.json"),)
    assert config.categories == {"person": 1, "no": 3}
    assert config.class_map == {"person": ("pedestrian", "no")}
    several, _ = load_model(PredictionsTeacher, path, ["file=[a.json, b.json]"])
    assert several.files == (Path("a.json"), Path("b.json"))
    with pytest.raises(RecipeError, match=r"categories: id 1 is given twice"):
        load_model(PredictionsTeacher, path, ["categories.no=1"])
