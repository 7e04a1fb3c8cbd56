import contextlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.data.image_set import (
    coco_ground_truth,
    read_canvas,
    read_coco,
    read_photograph,
)
from export.errors import DataError
from tests.benchmarks.data.tiny import coco, picture, write_coco


def test_classes_are_ordered_by_category_id_with_gaps(tmp_path: Path) -> None:
    images = read_coco(write_coco(tmp_path, "train", coco(2, ids=(70, 3))))
    assert images.category_ids == (3, 70)
    assert images.classes == ("class3", "class70")
    assert [image.labels.tolist() for image in images.images] == [[1], [0]]


def test_a_box_becomes_corners_and_its_area_is_computed_unless_stated(tmp_path: Path) -> None:
    document = coco(2)
    document["annotations"][1]["area"] = 33.5
    images = read_coco(write_coco(tmp_path, "train", document)).images
    assert images[0].boxes.tolist() == [[4, 5, 14, 13]]
    assert images[0].areas.tolist() == [80]  # 10 x 8
    assert images[1].areas.tolist() == [33.5]


def test_boxes_outside_are_clipped_or_dropped_and_counted(tmp_path: Path) -> None:
    document = coco(3)
    document["annotations"][0]["bbox"] = [30, 20, 20, 20]  # leaves by 10 on both sides
    document["annotations"][1]["bbox"] = [41, 5, 5, 5]  # the picture is 40 wide
    document["annotations"][2]["bbox"] = [4, 5, 0, 8]
    images = read_coco(write_coco(tmp_path, "train", document))
    assert [image.boxes.tolist() for image in images.images] == [[[30, 20, 40, 30]], [], []]
    assert images.images[0].areas.tolist() == [100]
    assert images.tally.dropped == {"outside the picture": 1, "no area": 1}
    assert "1 box dropped: no area (3.png annotation 3)" in images.notes


def test_crowds_and_images_without_boxes_are_kept(tmp_path: Path) -> None:
    document = coco(2)
    document["annotations"] = [document["annotations"][0] | {"iscrowd": 1}]
    images = read_coco(write_coco(tmp_path, "train", document))
    assert len(images) == 2
    assert images.images[0].crowd.tolist() == [True]
    assert images.images[1].boxes.shape == (0, 4)


def _first(key: str, **changes: Any) -> dict[str, Any]:
    document = coco(2)
    document[key][0] |= changes
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "expected an object"),
        ({"info": 1}, "not COCO: `images`"),
        (coco(2) | {"annotations": 3}, "not COCO: `annotations`"),
        (coco(2) | {"categories": []}, "`categories` is empty"),
        (_first("images", id=2), r"images\[1\]: id 2 is there twice"),
        (_first("images", id="one"), r"images\[0\]: id 'one'"),
        (_first("images", width=-4), "image 1: width -4"),
        (_first("categories", id=3), r"categories\[1\]: id 3 is there twice"),
        (_first("categories", name="class3"), "name 'class3' is there twice"),
        (_first("annotations", image_id=9), r"annotations\[0\] \(id 1\): image_id 9"),
        (_first("annotations", category_id=1), r"category_id 1 is not among \[3, 7\]"),
        (_first("annotations", bbox=[1, 2, 3]), "expected four numbers"),
        (_first("annotations", bbox=[1, 2, float("nan"), 3]), "expected four numbers"),
        (
            _first("annotations", bbox=[1e300, 5, 1e300, 3]),
            r"bbox \[1e\+300.*each between -1e\+09 and",
        ),
        (_first("annotations", bbox=[10**400, 5, 3, 3]), "each between"),
        (_first("annotations", bbox=[True, 5, 3, 3]), r"height\]$"),
        (_first("annotations", area=float("inf")), "area inf"),
        (_first("images", width=0), "width 0, height 30; expected whole numbers of pixels above 0"),
        (_first("annotations", iscrowd=5), "iscrowd 5"),
    ],
)
def test_a_wrong_file_is_refused_naming_the_entry(
    tmp_path: Path, document: Any, message: str
) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    for number in (1, 2):
        picture(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match=message) as caught:
        read_coco(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"images": [], "annotations": [], "categories": [], "annotations": []}', "annotations"),
        ('{"images": [{"id": 1, "id": 2}], "annotations": [], "categories": []}', "id"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"train\.json: .* the key .?{key}.? stands twice"):
        read_coco(path)


def test_equal_boxes_are_dropped_and_others_of_the_same_place_kept(tmp_path: Path) -> None:
    document = coco(2)
    first = document["annotations"][0]
    more = [
        first | {"id": 8},
        first | {"id": 9, "category_id": 3},
        first | {"id": 10, "iscrowd": 1},
    ]
    document["annotations"] += more
    images = read_coco(write_coco(tmp_path, "train", document))
    assert [len(image.labels) for image in images.images] == [3, 1]
    assert images.tally.dropped == {"the same box and class twice in a picture": 1}
    assert any("annotation 8)" in note for note in images.notes)


def test_no_file_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_coco(tmp_path / "train.json")
    (tmp_path / "train.json").write_bytes(b"\x00\xffnot json")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_coco(tmp_path / "train.json")


def test_repeated_annotation_ids_are_a_note(tmp_path: Path) -> None:
    images = read_coco(write_coco(tmp_path, "train", _first("annotations", id=2)))
    assert sum(len(image.labels) for image in images.images) == 2
    assert any("1 annotation id is there twice" in note for note in images.notes)


def test_missing_pictures_are_counted_and_named(tmp_path: Path) -> None:
    path = write_coco(tmp_path, "train", coco(6))
    for number in range(1, 6):
        (tmp_path / "images" / f"{number}.png").unlink()
    with pytest.raises(DataError, match=r"5 of 6 pictures .*1\.png, 2\.png, 3\.png, \.\.\."):
        read_coco(path)


@pytest.mark.parametrize("folder", [".", "images", "train", "images/train", "deep/down"])
def test_pictures_are_found_beside_below_and_in_split_folders(tmp_path: Path, folder: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(coco(1)), encoding="utf-8")
    expected = picture(tmp_path / folder / "1.png")
    assert read_coco(path).paths == (expected,)


def test_a_named_folder_is_the_only_one_looked_in(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "a", "train", coco(1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="1 of 1 picture is not there"):
        read_coco(path, tmp_path / "empty")


def test_a_picture_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    path = write_coco(tmp_path, "train", coco(1))
    picture(tmp_path / "images" / "1.png", width=44)
    images = read_coco(path)
    with pytest.raises(DataError, match=r"44 x 30 pixels, its annotations .* say 40 x 30"):
        read_canvas(images, 0, 32, 32)


def test_a_size_that_is_not_stated_is_read_from_the_file(tmp_path: Path) -> None:
    document = coco(1)
    del document["images"][0]["width"]
    image = read_coco(write_coco(tmp_path, "train", document)).images[0]
    assert (image.width, image.height) == (40, 30)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_every_colour_mode_gives_three_channels(tmp_path: Path, mode: str) -> None:
    path = write_coco(tmp_path, "train", coco(1))
    grey = Image.fromarray(np.full((30, 40), 130, dtype=np.uint8))
    stored = Image.fromarray(np.full((30, 40), 130 << 8, dtype=np.uint16))
    image = stored if mode == "I;16" else grey.convert(mode)
    picked = tmp_path / "images" / "1.png"
    picked.unlink()
    image.save(picked.with_suffix(".tif"))
    document = coco(1)
    document["images"][0]["file_name"] = "1.tif"
    path.write_text(json.dumps(document), encoding="utf-8")
    pixels = read_photograph(read_coco(path), 0)
    assert pixels.shape == (30, 40, 3)
    if mode != "1":  # dithered
        assert abs(pixels.mean() - 130) < 3


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    path = write_coco(tmp_path, "train", coco(1))
    whole = (tmp_path / "images" / "1.png").read_bytes()
    (tmp_path / "images" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"1\.png"):
        read_canvas(read_coco(path), 0, 32, 32)


def test_the_ground_truth_returns_to_coco(tmp_path: Path) -> None:
    document = coco(3)
    document["annotations"][2]["iscrowd"] = 1
    truth = coco_ground_truth(read_coco(write_coco(tmp_path, "train", document)))
    assert [a["id"] for a in truth["annotations"]] == [1, 2, 3]
    assert [a["category_id"] for a in truth["annotations"]] == [7, 3, 7]
    assert truth["annotations"][0]["bbox"] == [4, 5, 10, 8]
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 0, 1]
    json.dumps(truth)


def test_a_subset_keeps_its_order_and_has_its_own_fingerprint(tmp_path: Path) -> None:
    images = read_coco(write_coco(tmp_path, "train", coco(3)))
    part = images.subset([2, 0])
    assert [image.id for image in part.images] == [3, 1]
    assert [path.name for path in part.paths] == ["3.png", "1.png"]
    assert part.fingerprint != images.fingerprint
    assert images.subset([0, 1, 2]).fingerprint == images.fingerprint
    pickle.dumps(part)


@pytest.mark.slow
@pytest.mark.photographs
def test_the_judge_gives_full_marks_to_the_ground_truth_itself(photographs: Path) -> None:
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    coco_api = pytest.importorskip("pycocotools.coco")
    truth = coco_ground_truth(read_coco(photographs / "coco128" / "all.json"))
    with contextlib.redirect_stdout(io.StringIO()):
        judge = coco_api.COCO()
        judge.dataset = truth
        judge.createIndex()
        results = [a | {"score": 1.0} for a in truth["annotations"] if not a["iscrowd"]]
        evaluation = cocoeval.COCOeval(judge, judge.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


@pytest.mark.photographs
@pytest.mark.parametrize(
    ("file", "images", "boxes", "crowd", "classes", "empty"),
    [
        ("bccd/train.json", 205, 2804, 0, 3, 0),
        ("bccd/test.json", 72, 945, 0, 3, 0),
        ("aquarium/train.json", 448, 3323, 0, 7, 1),
        ("aquarium/val.json", 127, 909, 0, 7, 0),
        ("coco128/all.json", 128, 939, 10, 80, 2),
    ],
)
def test_photographs_hold_what_their_readme_says(
    photographs: Path, file: str, images: int, boxes: int, crowd: int, classes: int, empty: int
) -> None:
    found = read_coco(photographs / file)
    assert len(found) == images
    assert sum(len(image.labels) for image in found.images) == boxes
    assert sum(int(image.crowd.sum()) for image in found.images) == crowd
    assert len(found.classes) == classes
    assert sum(not len(image.labels) for image in found.images) == empty
    assert found.tally.dropped == {}
    assert read_canvas(found, 0, 96, 128)[0].shape == (96, 128, 3)
