import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.data.roboflow import read_roboflow
from export.errors import DataError
from tests.benchmarks.data.tiny import coco, picture

CATEGORIES = [
    {"id": 0, "name": "blood", "supercategory": "none"},
    {"id": 1, "name": "red", "supercategory": "blood"},
    {"id": 2, "name": "white", "supercategory": "blood"},
]


def _export(root: Path, folder: str, categories: list[dict[str, Any]], category: int) -> None:
    picture(root / folder / "1.png")
    document = coco(1) | {"categories": categories}
    document["annotations"][0]["category_id"] = category
    file = root / folder / "_annotations.coco.json"
    file.write_text(json.dumps(document), encoding="utf-8")


def test_the_umbrella_class_without_boxes_is_left_out_with_a_note(tmp_path: Path) -> None:
    _export(tmp_path, "valid", CATEGORIES, 2)
    images = read_roboflow(tmp_path, "val")
    assert images.classes == ("red", "white")
    assert images.category_ids == (1, 2)
    assert "class 'blood' (id 0) left out" in images.notes[0]


def test_a_group_class_with_boxes_in_another_split_stays_in_both(tmp_path: Path) -> None:
    _export(tmp_path, "train", CATEGORIES, 0)
    _export(tmp_path, "valid", CATEGORIES, 2)
    for split in ("train", "val"):
        assert read_roboflow(tmp_path, split).classes == ("blood", "red", "white")


def test_several_groups_are_left_out_and_a_class_without_group_stays(tmp_path: Path) -> None:
    more = [
        {"id": 3, "name": "plastic", "supercategory": "none"},
        {"id": 4, "name": "cap", "supercategory": "plastic"},
        {"id": 5, "name": "washer", "supercategory": "none"},
    ]
    _export(tmp_path, "train", CATEGORIES + more, 1)
    images = read_roboflow(tmp_path, "train")
    assert images.classes == ("red", "white", "cap", "washer")
    assert [note.split(" left out")[0] for note in images.notes] == [
        "class 'blood' (id 0)",
        "class 'plastic' (id 3)",
    ]


def test_an_umbrella_class_with_boxes_stays(tmp_path: Path) -> None:
    _export(tmp_path, "train", CATEGORIES, 0)
    assert read_roboflow(tmp_path, "train").classes == ("blood", "red", "white")


def test_an_unused_class_that_is_nobodys_parent_stays(tmp_path: Path) -> None:
    _export(tmp_path, "train", [c | {"supercategory": "none"} for c in CATEGORIES], 1)
    assert read_roboflow(tmp_path, "train").classes == ("blood", "red", "white")


def test_a_group_with_the_name_of_its_only_class_is_distinguished(tmp_path: Path) -> None:
    fish = [
        {"id": 0, "name": "fish", "supercategory": "none"},
        {"id": 1, "name": "fish", "supercategory": "fish"},
    ]
    _export(tmp_path, "train", fish, 1)
    assert read_roboflow(tmp_path, "train").category_ids == (1,)


def test_a_missing_split_lists_those_there(tmp_path: Path) -> None:
    _export(tmp_path, "train", CATEGORIES, 1)
    with pytest.raises(DataError, match=r"no Roboflow split 'test'.*there: train"):
        read_roboflow(tmp_path, "test")
