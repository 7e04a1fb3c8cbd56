import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from benchmarks.data.annotations import RawObject
from benchmarks.data.shapes import ShapePainter
from compress.data.config import Data, DataConfig, FolderConfig, ShapesConfig
from compress.data.splits import without_labels
from export.errors import DataError
from tests.benchmarks.data.tiny import (
    coco,
    picture,
    voc_xml,
    write_coco,
    write_coco_root,
    write_yolo,
)

CONFIG: TypeAdapter[FolderConfig | ShapesConfig] = TypeAdapter(DataConfig)


def _open(**settings: Any) -> Data:
    settings = {"type": "folder", "image_size": 64} | settings
    return CONFIG.validate_json(json.dumps(settings, default=str)).open()


def test_a_coco_folder_opens_with_no_more_than_its_root(tmp_path: Path) -> None:
    data = _open(root=write_coco_root(tmp_path))
    assert data.format == "coco"
    assert (len(data.train), len(data.val)) == (4, 2)
    assert (data.train.name, data.val.name) == ("train", "val")
    assert data.classes == ("class3", "class7")
    assert data.category_ids == (3, 7)
    assert (data.input_height, data.input_width) == (64, 64)
    assert data.cache_bytes == 4 * 2**30
    assert data.num_classes == 2


def test_a_yolo_folder_and_a_voc_folder_open_the_same_way(tmp_path: Path) -> None:
    write_yolo(tmp_path / "y", dict.fromkeys(("train/a", "val/b"), "0 0.5 0.5 0.2 0.2"))
    assert _open(root=tmp_path / "y").format == "yolo"
    for split in ("train", "valid"):
        picture(tmp_path / "v" / split / "a.jpg")
        xml = voc_xml([("dog", (1, 1, 9, 9), 0)])
        (tmp_path / "v" / split / "a.xml").write_text(xml, encoding="utf-8")
    assert _open(root=tmp_path / "v").format == "voc"


def test_explicit_files_may_mix_formats_when_the_classes_agree(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", "some", coco(3))
    write_coco(tmp_path / "b", "others", coco(2, start=50), shade=190)
    data = _open(
        root=tmp_path,
        train={"path": "a/some.json", "images": "a/images"},
        val={"path": "b/others.json"},
    )
    assert (len(data.train), len(data.val)) == (3, 2)


def test_image_size_may_be_a_pair_and_must_be_a_multiple_of_32(tmp_path: Path) -> None:
    root = write_coco_root(tmp_path)
    data = _open(root=root, image_size=[64, 96])
    assert (data.input_height, data.input_width) == (64, 96)
    with pytest.raises(ValidationError, match="multiples of 32"):
        _open(root=root, image_size=100)
    with pytest.raises(ValidationError, match="transpose needs a square"):
        _open(root=root, image_size=[64, 96], augment={"transpose": 0.5})


def test_a_limit_takes_the_same_pictures_for_the_same_seed(tmp_path: Path) -> None:
    root = write_coco_root(tmp_path, train=12)

    def names(limit: int, seed: int) -> list[str]:
        images = _open(root=root, train={"limit": limit, "seed": seed}).train.images
        return [image.file_name for image in images]

    assert names(5, 0) == names(5, 0)
    assert names(5, 0) == names(8, 0)[:5]
    assert names(8, 0) != names(8, 1)
    assert len(names(12, 0)) == 12
    with pytest.raises(DataError, match=r"data\.train\.limit: 13, and there are 12 pictures"):
        names(13, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 3, "name": "class3"}, {"id": 7, "name": "other"}]}, "only in val"),
        (
            {
                "categories": [{"id": 3, "name": "class7"}, {"id": 7, "name": "class3"}],
            },
            "class3 is 3 and 7",
        ),
    ],
)
def test_class_lists_that_differ_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    root = write_coco_root(tmp_path)
    write_coco(root, "val", coco(2, start=101) | change)
    with pytest.raises(DataError, match=message):
        _open(root=root)


def test_classes_choose_and_order_and_count_what_they_leave_out(tmp_path: Path) -> None:
    root = write_coco_root(tmp_path)
    swapped = _open(root=root, classes=["class7", "class3"])
    assert swapped.category_ids == (7, 3)
    assert [image.labels.tolist() for image in swapped.train.images] == [[0], [1], [0], [1]]
    only = _open(root=root, classes=["class7"])
    assert [len(image.labels) for image in only.train.images] == [1, 0, 1, 0]
    assert only.train.tally.dropped == {"of a class that data.classes leaves out": 2}
    with pytest.raises(DataError, match=r"'clas7' is not a class .*did you mean 'class7'"):
        _open(root=root, classes=["clas7"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_refused(tmp_path: Path, split: str) -> None:
    root = write_coco_root(tmp_path)
    (root / f"{split}.json").write_text(json.dumps(coco(0)), encoding="utf-8")
    with pytest.raises(DataError, match=rf"data\.{split}: no pictures"):
        _open(root=root)


def test_a_split_without_any_box_is_refused(tmp_path: Path) -> None:
    root = write_coco_root(tmp_path)
    write_coco(root, "train", coco(3) | {"annotations": []})
    with pytest.raises(DataError, match=r"data\.train: no boxes"):
        _open(root=root)


def test_wrong_places_are_named(tmp_path: Path) -> None:
    root = write_coco_root(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        _open(root=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"data\.train\.path: .*gone\.json: no such"):
        _open(root=root, train={"path": "gone.json"})
    with pytest.raises(DataError, match=r"data\.val\.images: .*gone: no such folder"):
        _open(root=root, val={"images": "gone"})
    with pytest.raises(DataError, match=r"data\.train\.count: is for drawn data"):
        _open(root=root, train={"count": 4})


def _heap(root: Path, count: int = 10) -> Path:
    """COCO pictures without splits, of two classes in turn."""
    write_coco(root, "annotations", coco(count))
    return root


def test_a_set_without_splits_says_which_key_to_add_and_the_key_divides_it(tmp_path: Path) -> None:
    root = _heap(tmp_path)
    with pytest.raises(DataError, match=r"no splits of its own.*`split: \{val: 0\.2, seed: 0\}`"):
        _open(root=root)
    data = _open(root=root, split={"val": 0.2, "seed": 0})
    assert (data.train.name, data.val.name) == ("train", "val")
    assert (len(data.train), len(data.val)) == (8, 2)
    assert {int(image.labels[0]) for image in data.val.images} == {0, 1}
    assert data.division is not None
    assert Counter(data.division.sides) == {"train": 8, "val": 2}
    assert data.division.files[0] == "images/1.png"


def test_split_without_keys_holds_out_a_fifth(tmp_path: Path) -> None:
    data = _open(root=_heap(tmp_path), split={})
    assert (len(data.train), len(data.val)) == (8, 2)


@pytest.mark.parametrize("fmt", ["voc", "yolo"])
def test_other_formats_are_divided_as_well(tmp_path: Path, fmt: str) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    for number in range(10):
        picture(tmp_path / f"{number}.jpg", shade=60 + number)
        label = tmp_path / f"{number}.{'xml' if fmt == 'voc' else 'txt'}"
        box = voc_xml([("dog", (1, 1, 9, 9), 0)]) if fmt == "voc" else "1 0.5 0.5 0.2 0.2"
        label.write_text(box, encoding="utf-8")
    if fmt == "voc":
        (tmp_path / "classes.txt").unlink()
    data = _open(root=tmp_path, split={"val": 0.3})
    assert (data.format, len(data.train), len(data.val)) == (fmt, 7, 3)


def test_limits_and_unlabeled_pictures_come_after_the_division(tmp_path: Path) -> None:
    root = _heap(tmp_path, 20)
    whole = _open(root=root, split={"val": 0.25})
    data = _open(
        root=root,
        split={"val": 0.25},
        train={"limit": 4},
        val={"limit": 2},
        unlabeled={"split": "train", "rest": True},
    )
    assert (len(data.train), len(data.val)) == (4, 2)
    assert data.unlabeled is not None
    names = [{i.file_name for i in part.images} for part in (data.train, data.unlabeled)]
    assert names[0] | names[1] == {i.file_name for i in whole.train.images}
    assert not names[0] & names[1]
    assert data.division is not None
    assert whole.division is not None
    assert data.division.sides == whole.division.sides


def test_test_pictures_are_in_neither_train_nor_val(tmp_path: Path) -> None:
    data = _open(root=_heap(tmp_path, 20), split={"val": 0.2, "test": 0.1})
    assert (len(data.train), len(data.val)) == (14, 4)


def test_split_is_refused_where_the_data_has_a_val_split(tmp_path: Path) -> None:
    root = write_coco_root(tmp_path, train=10)
    with pytest.raises(DataError, match=r"splits of its own \(train, val\), so data\.split is not"):
        _open(root=root, split={})
    with pytest.raises(DataError, match=r"data\.split: takes val from the pictures of train"):
        _open(root=root, split={}, val={"split": "val"})
    data = _open(root=root, split={}, train={"split": "train"})
    assert (len(data.train), len(data.val)) == (8, 2)
    by_path = _open(root=root, split={}, train={"path": "train.json"})
    assert by_path.val.fingerprint == data.val.fingerprint


def test_a_set_with_train_alone_is_divided_or_says_how(tmp_path: Path) -> None:
    write_coco(tmp_path, "train", coco(10))
    with pytest.raises(DataError, match=r"has train and no val\. Add .*`split: \{val: 0\.2"):
        _open(root=tmp_path)
    assert len(_open(root=tmp_path, split={}).val) == 2


def test_a_set_without_train_asks_which_split_to_divide(tmp_path: Path) -> None:
    write_coco(tmp_path, "test", coco(10))
    with pytest.raises(DataError, match=r"comes with the splits test; name the one to divide"):
        _open(root=tmp_path, split={})
    with pytest.raises(DataError, match="no COCO annotations for the split 'train'"):
        _open(root=tmp_path)
    assert len(_open(root=tmp_path, split={}, train={"split": "test"}).val) == 2


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"val": 0}, "greater than 0"),
        ({"val": 1}, "less than 1"),
        ({"val": 0.6, "test": 0.4}, "leave nothing for train"),
        ({"value": 0.2}, "Extra inputs"),
    ],
)
def test_impossible_shares_are_refused(
    tmp_path: Path, split: dict[str, float], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        _open(root=tmp_path, split=split)


def test_unlabeled_pictures_come_from_a_plain_folder_or_a_split_without_its_boxes(
    tmp_path: Path,
) -> None:
    root = write_coco_root(tmp_path)
    for number in range(3):
        picture(root / "extra" / f"{number}.png", shade=10 + number)
    for unlabeled in ({"path": "extra"}, {"split": "extra"}):
        data = _open(root=root, unlabeled=unlabeled)
        assert data.unlabeled is not None
        assert len(data.unlabeled) == 3
        assert data.unlabeled.classes == data.classes
    data = _open(root=root, unlabeled={"split": "train", "limit": 2})
    assert data.unlabeled is not None
    assert len(data.unlabeled) == 2
    assert not any(len(image.labels) for image in data.unlabeled.images)
    assert any(len(image.labels) for image in data.train.images)
    with pytest.raises(DataError, match="unlabeled: no such folder"):
        _open(root=root, unlabeled={})
    (root / "hollow").mkdir()
    with pytest.raises(DataError, match="hollow: no pictures in it"):
        _open(root=root, unlabeled={"path": "hollow"})


def test_the_rest_of_a_split_is_what_training_has_no_labels_of(tmp_path: Path) -> None:
    root = write_coco_root(tmp_path)
    rest = {"split": "train", "rest": True}
    data = _open(root=root, train={"limit": 1}, unlabeled=rest)
    assert data.unlabeled is not None
    names = [{i.file_name for i in part.images} for part in (data.train, data.unlabeled)]
    assert names[0] | names[1] == {i.file_name for i in _open(root=root).train.images}
    assert not names[0] & names[1]
    with pytest.raises(DataError, match=r"data\.unlabeled: no pictures"):
        _open(root=root, unlabeled=rest)
    drawn = _open(type="shapes", train={"count": 9, "limit": 2}, unlabeled={**rest, "count": 9})
    assert drawn.unlabeled is not None
    ids = [[image.id for image in part.images] for part in (drawn.train, drawn.unlabeled)]
    assert sorted(ids[0] + ids[1]) == list(range(1, 10))


def test_unlabeled_pictures_of_a_coco_file_need_no_shared_classes(tmp_path: Path) -> None:
    root = write_coco_root(tmp_path)
    write_coco(root / "more", "all", coco(2, ids=(1,)))
    data = _open(root=root, unlabeled={"path": "more/all.json"})
    assert data.unlabeled is not None
    assert data.unlabeled.category_ids == data.category_ids


def test_shapes_open_with_a_count_and_a_limit() -> None:
    data = _open(
        type="shapes", train={"count": 30, "limit": 4}, val={"count": 3}, unlabeled={"count": 9}
    )
    assert data.format == "shapes"
    assert (len(data.train), len(data.val)) == (4, 3)
    assert data.unlabeled is not None
    assert len(data.unlabeled) == 9
    assert len(data.classes) == 6
    assert data.train.draw is not None
    assert data.train.draw(0).shape == (64, 64, 3)
    hard = _open(type="shapes", difficulty="hard", train={"count": 2}, val={"count": 2})
    assert len(hard.classes) == 8
    with pytest.raises(DataError, match="drawn data has no path"):
        _open(type="shapes", train={"path": "x"})


def test_the_limited_drawn_pictures_are_among_the_whole() -> None:
    whole = _open(type="shapes", train={"count": 20}, val={"count": 2}).train
    part = _open(type="shapes", train={"count": 20, "limit": 3}, val={"count": 2}).train
    names = [image.file_name for image in whole.images]
    assert all(image.file_name in names for image in part.images)


@pytest.mark.parametrize("rest", [False, True])
def test_drawn_pictures_without_labels_are_those_of_the_split_and_no_object_is_placed(
    rest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[int] = []
    objects = ShapePainter.objects

    def counted(painter: ShapePainter, index: int) -> list[RawObject]:
        placed.append(index)
        return objects(painter, index)

    monkeypatch.setattr(ShapePainter, "objects", counted)
    wanted = {"split": "train", "count": 30, "rest": rest}
    data = _open(type="shapes", train={"count": 30, "limit": 4}, val={"count": 2}, unlabeled=wanted)
    assert len(placed) < 10  # of train and val
    whole = _open(type="shapes", train={"count": 30}, val={"count": 2}).train
    taken = {image.file_name for image in data.train.images} if rest else set()
    left = whole.subset([i for i, o in enumerate(whole.images) if o.file_name not in taken])
    assert data.unlabeled is not None
    assert data.unlabeled.fingerprint == without_labels(left).fingerprint
    assert data.unlabeled.draw is not None
    assert left.draw is not None
    assert (data.unlabeled.draw(3) == left.draw(3)).all()


@pytest.mark.slow
@pytest.mark.photographs
def test_the_photographs_open_with_no_more_than_their_root(photographs: Path) -> None:
    for name, train, val in (("bccd", 205, 87), ("aquarium", 448, 127), ("coco128", 96, 32)):
        data = _open(root=photographs / name, image_size=[256, 320])
        assert (data.format, len(data.train), len(data.val)) == ("coco", train, val)


def test_a_split_of_crowd_boxes_alone_is_refused(tmp_path: Path) -> None:
    write_coco_root(tmp_path)
    for split in ("train", "val"):
        file = tmp_path / f"{split}.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        for entry in document["annotations"]:
            entry["iscrowd"] = 1
        file.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.train: all 4 boxes are crowd"):
        FolderConfig(root=tmp_path, image_size=32).open()
