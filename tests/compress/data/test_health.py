import json
from pathlib import Path

import pytest

from compress.data.augment import AugmentConfig
from compress.data.config import FolderConfig, ShapesConfig
from compress.data.health import Health, data_health, teacher_lines
from compress.data.split_settings import SplitConfig
from export.errors import DataError
from tests.benchmarks.data.tiny import coco, picture, write_coco, write_coco_root


def health_with_a_copy(root: Path, name: str) -> Health:
    """Write a data set in which the picture `name` is a copy of 2.png, which is in train."""
    write_coco_root(root)
    images = root / "images"
    (images / name).write_bytes((images / "2.png").read_bytes())
    return data_health(FolderConfig(root=root, image_size=32).open())


def test_counts_balance_and_sizes_are_at_the_input_resolution(tmp_path: Path) -> None:
    document = coco(3)
    document["annotations"][1]["bbox"] = [0, 0, 40, 30]
    document["annotations"].pop()  # the third picture has no box
    document["annotations"].append({**document["annotations"][0], "id": 8, "iscrowd": 1})
    write_coco_root(tmp_path)
    write_coco(tmp_path, "train", document)
    health = data_health(FolderConfig(root=tmp_path, image_size=128).open())
    train = health.splits["train"]
    # 40 x 30 in 128 x 128 is scaled by 3.2: boxes of 32 x 25.6 and 128 x 96
    assert train.sizes == {"small": 1, "medium": 0, "large": 1}
    assert train.boxes_per_class == {"class3": 1, "class7": 1}
    assert (train.images, train.images_without_boxes, train.boxes, train.crowd) == (3, 1, 2, 1)
    assert train.share_under_8_px == 0
    assert train.aspect[1] == pytest.approx((1.25 + 4 / 3) / 2, abs=1e-3)
    assert json.loads(json.dumps(health.to_dict()))["splits"]["train"]["crowd"] == 1


def test_boxes_too_small_for_the_input_are_counted_in_a_warning(tmp_path: Path) -> None:
    document = coco(4)
    document["annotations"][0]["bbox"] = [4, 5, 10, 9]
    write_coco(write_coco_root(tmp_path), "train", document)
    config = FolderConfig(root=tmp_path, image_size=32, augment=AugmentConfig(min_box_px=7.0))
    health = data_health(config.open())  # scaled by 0.8: boxes of 8 x 6.4, one of 8 x 7.2
    assert health.splits["train"].share_under_8_px == 1
    assert health.splits["train"].dropped_in_training == 3
    assert any("3 train boxes are under 7 px at 32 x 32" in w for w in health.warnings)


def test_a_picture_in_both_splits_is_a_leak_whatever_its_name(tmp_path: Path) -> None:
    health = health_with_a_copy(tmp_path, "101.png")
    assert health.leaks == {"train and val": ("101.png",)}
    assert any(
        "1 picture of val is also in train (101.png): AP on val" in w for w in health.warnings
    )


def test_a_picture_twice_in_one_split_is_named_in_a_warning(tmp_path: Path) -> None:
    health = health_with_a_copy(tmp_path, "4.png")
    assert health.repeated == {"train": ("2.png",)}
    assert health.leaks == {}


def test_an_unlabeled_picture_that_is_in_val_is_a_leak_and_one_of_train_is_none(
    tmp_path: Path,
) -> None:
    write_coco_root(tmp_path)
    picture(tmp_path / "more/a.png", shade=190)  # as 101.png
    picture(tmp_path / "more/b.png", shade=90)  # as 1.png
    unlabeled = SplitConfig(path=Path("more"))
    config = FolderConfig(root=tmp_path, image_size=32, unlabeled=unlabeled)
    assert data_health(config.open()).leaks == {"unlabeled and val": ("101.png",)}


def test_rare_and_missing_classes_are_warned_about(tmp_path: Path) -> None:
    write_coco_root(tmp_path)
    write_coco(tmp_path, "train", coco(1))
    health = data_health(FolderConfig(root=tmp_path, image_size=32).open())
    assert "train has no box of 1 class: class3" in health.warnings
    assert "train has under 10 boxes of 1 class: class7 1" in health.warnings


def test_dropped_boxes_and_their_reasons_stand_in_the_text(tmp_path: Path) -> None:
    write_coco_root(tmp_path)
    document = coco(4)
    document["annotations"][0]["bbox"] = [4, 5, 0, 0]
    write_coco(tmp_path, "train", document)
    health = data_health(FolderConfig(root=tmp_path, image_size=32).open())
    assert health.splits["train"].read["dropped"] == {"no area": 1}
    assert any("1 box dropped: no area (1.png annotation 1)" in x for x in health.lines())


def test_a_vanished_picture_is_named(tmp_path: Path) -> None:
    data = FolderConfig(root=write_coco_root(tmp_path), image_size=32).open()
    (tmp_path / "images/2.png").unlink()
    with pytest.raises(DataError, match=r"1 picture file cannot be read: .*2\.png"):
        data_health(data)


def test_drawn_splits_have_no_leak_unless_one_is_used_twice() -> None:
    few = SplitConfig(count=20)
    apart = ShapesConfig(type="shapes", image_size=64, train=few, val=few)
    assert data_health(apart.open()).leaks == {}
    val = SplitConfig(split="train", count=5)
    twice = ShapesConfig(type="shapes", image_size=64, train=few, val=val)
    assert len(data_health(twice.open()).leaks["train and val"]) == 5


def test_boxes_of_the_first_drawings_alone_are_counted() -> None:
    data = ShapesConfig(
        type="shapes",
        image_size=64,
        train=SplitConfig(count=201),
        val=SplitConfig(split="train", count=200),
    ).open()
    health = data_health(data)
    train, first = health.splits["train"], health.splits["val"]
    assert (train.images, first.images) == (201, 200)
    assert train.boxes_per_class == first.boxes_per_class
    assert "boxes are counted on the first 200 of 201 drawings" in train.notes
    assert first.notes == ()
    assert len(health.leaks["train and val"]) == 200


@pytest.mark.slow
@pytest.mark.photographs
def test_the_photographs_have_no_leaks(photographs: Path) -> None:
    health = data_health(FolderConfig(root=photographs / "bccd", image_size=(256, 320)).open())
    assert health.leaks == {}
    assert health.repeated == {}
    assert health.splits["train"].boxes_per_class == {"RBC": 2381, "WBC": 214, "Platelets": 209}


def test_pictures_with_more_objects_than_a_model_returns_are_warned_about(tmp_path: Path) -> None:
    write_coco_root(tmp_path)
    data = FolderConfig(root=tmp_path, image_size=32).open()
    assert not any("max_detections" in warning for warning in data_health(data).warnings)
    document = coco(3)
    document["annotations"] = [
        {**document["annotations"][0], "id": number, "bbox": [number, 5.0, 10.0, 8.0]}
        for number in range(1, 5)
    ]
    write_coco(tmp_path, "train", document)
    cut = FolderConfig(root=tmp_path, image_size=32).open()
    (warning,) = [w for w in data_health(cut, 3).warnings if "max_detections" in w]
    assert warning.startswith("train: 1 of 3 pictures hold more than 3 objects (the fullest 4)")


def test_class_names_that_differ_in_case_or_white_space_alone_are_named(tmp_path: Path) -> None:
    names = ["red", "Red", "light red", "light  red", "blue"]
    for split, start in (("train", 1), ("val", 101)):
        document = coco(5, ids=(1, 2, 3, 4, 5), start=start)
        document["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
        write_coco(tmp_path, split, document, shade=start)
    data = FolderConfig(root=tmp_path, image_size=64).open()
    (said,) = [text for text in data_health(data).warnings if "white space" in text]
    assert "'red' and 'Red', 'light red' and 'light  red';" in said
    assert f"warning: {said}" in teacher_lines(data)
    distinct = FolderConfig(root=tmp_path, image_size=64, classes=("red", "blue")).open()
    assert not [text for text in data_health(distinct).warnings if "white space" in text]
