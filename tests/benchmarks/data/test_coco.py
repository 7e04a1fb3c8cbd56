import json
from pathlib import Path

import pytest

from benchmarks.data.coco import read_coco_split
from export.errors import DataError
from tests.benchmarks.data.tiny import coco, picture, write_coco_root


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("val.json", "images"),
        ("valid.json", "images/valid"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/instances_val.json", "val"),
        ("annotations/val.json", "images/val"),
    ],
)
def test_the_usual_layouts_are_found(tmp_path: Path, annotations: str, images: str) -> None:
    file = tmp_path / annotations
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(coco(1)), encoding="utf-8")
    expected = picture(tmp_path / images / "1.png")
    assert read_coco_split(tmp_path, "val").paths == (expected,)


def test_the_same_name_in_two_splits_is_taken_from_its_own_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(coco(1)), encoding="utf-8")
        picture(tmp_path / "images" / split / "1.png")
    assert read_coco_split(tmp_path, "val").paths[0].parent.name == "val"


def test_a_missing_split_lists_what_is_there(tmp_path: Path) -> None:
    write_coco_root(tmp_path)
    with pytest.raises(DataError, match=r"split 'test'.*JSON files there: train\.json, val\.json"):
        read_coco_split(tmp_path, "test")


def test_pictures_in_a_shared_folder_that_no_annotation_file_names_are_counted(
    tmp_path: Path,
) -> None:
    write_coco_root(tmp_path)
    for name in ("lost.png", "h\u00e9.png"):
        picture(tmp_path / "images" / name)
    (tmp_path / "test.json").write_text('{"images": [{"file_name": "cam\\\\h\\u00e9.png"}]}')
    for split in ("train", "val"):
        assert read_coco_split(tmp_path, split).tally.left_out == {
            "pictures that no JSON file of the data set names, left out": 1
        }
    given = read_coco_split(tmp_path, "train", tmp_path / "train.json")
    assert not given.tally.left_out  # another file may name them
