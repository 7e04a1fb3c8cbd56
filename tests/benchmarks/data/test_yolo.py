from pathlib import Path

import pytest

from benchmarks.data.yolo import label_path, read_yolo
from export.errors import DataError
from tests.benchmarks.data.tiny import picture, write_yolo

BOX = "1 0.5 0.5 0.25 0.2\n"


def test_a_line_becomes_a_box_in_pixels(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train/a": BOX})
    images = read_yolo(tmp_path, "train")
    # 40 x 30: centre (20, 15), width 10, height 6
    assert images.images[0].boxes.tolist() == [[15, 12, 25, 18]]
    assert images.images[0].labels.tolist() == [1]
    assert images.classes == ("cat", "dog")
    assert images.category_ids == (0, 1)


def test_a_polygon_becomes_the_box_around_it(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train/a": "0 0.1 0.2 0.5 0.2 0.3 0.6\n"})
    assert read_yolo(tmp_path, "train").images[0].boxes[0] == pytest.approx([4, 6, 20, 18])


def test_key_points_after_a_box_are_left_alone(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train/a": "0 0.5 0.5 0.25 0.2 0.9 0.9 2\n"}, "kpt_shape: [1, 3]\n")
    assert read_yolo(tmp_path, "train").images[0].boxes.tolist() == [[15, 12, 25, 18]]


def test_empty_and_missing_label_files_are_counted_negatives(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train/a": BOX, "train/b": "", "train/c": ""})
    (tmp_path / "labels/train/c.txt").unlink()
    images = read_yolo(tmp_path, "train")
    assert [len(image.labels) for image in images.images] == [1, 0, 0]
    assert images.notes == (
        "1 picture with an empty label file (b.txt)",
        "1 picture without a label file, taken as empty (c.txt)",
    )


@pytest.mark.parametrize("entry", ["/", "/proc", "/proc/self", "/dev", "/sys/class"])
def test_a_folder_of_the_whole_system_is_refused(tmp_path: Path, entry: str) -> None:
    write_yolo(tmp_path, {"train/a": BOX}, f"train: {entry}\nval: images/train\n")
    with pytest.raises(DataError, match=rf"data\.yaml: train: {entry} is the whole disk or"):
        read_yolo(tmp_path, "train")


def test_a_repeated_line_is_dropped_with_a_note(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train/a": BOX * 2})
    images = read_yolo(tmp_path, "train")
    assert len(images.images[0].labels) == 1
    assert images.tally.dropped == {"the same box and class twice in a picture": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "4 fields"),
        ("0 0.5 0.5 0.2 0.2 0.9", "6 fields"),
        ("2 0.5 0.5 0.2 0.2", r"class 2 is not among 0\.\.1"),
        ("-1 0.5 0.5 0.2 0.2", "class -1"),
        ("0.5 0.5 0.5 0.2 0.2", "expected a whole number"),
        ("nan 0.5 0.5 0.2 0.2", "expected a whole number"),
        ("cat 0.5 0.5 0.2 0.2", "expected numbers"),
        ("0 200 100 20 20", r"not in 0\.\.1"),
        ("0 nan 0.5 0.2 0.2", r"not in 0\.\.1"),
    ],
)
def test_a_wrong_line_is_named_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    write_yolo(tmp_path, {"train/a": BOX + line + "\n"})
    with pytest.raises(DataError, match=message) as caught:
        read_yolo(tmp_path, "train")
    assert f"{tmp_path / 'labels/train/a.txt'}:2" in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("nc: 3\n", "nc is 3, but names holds 2"),
        ("names: {0: a, 2: b}\n", "expected 0, 1, 2"),
        ("names: [a, a]\n", "'a' is there twice"),
        ("names: 4\n", "expected a list or a map"),
        ("names: [a, b]\ntrain: nowhere\n", "train: nowhere is not there"),
        ("a: [\n", "is not plain YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not plain YAML"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, extra: str, message: str) -> None:
    write_yolo(tmp_path, {"train/a": BOX}, extra)
    with pytest.raises(DataError, match=message):
        read_yolo(tmp_path, "train")


def test_names_may_be_a_map_and_splits_a_list_of_folders(tmp_path: Path) -> None:
    extra = "names: {0: a, 1: b}\ntrain: [images/x, images/y]\n"
    write_yolo(tmp_path, {"x/1": BOX, "y/2": BOX}, extra)
    images = read_yolo(tmp_path, "train")
    assert images.classes == ("a", "b")
    assert [path.name for path in images.paths] == ["1.png", "2.png"]


def test_a_split_may_be_a_text_file_of_pictures(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"all/1": BOX, "all/2": BOX}, "train: train.txt\n")
    (tmp_path / "train.txt").write_text("./images/all/2.png\n", encoding="utf-8")
    assert [path.name for path in read_yolo(tmp_path, "train").paths] == ["2.png"]
    (tmp_path / "train.txt").write_text("./images/all/3.png\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"1 picture is not there: \./images/all/3\.png"):
        read_yolo(tmp_path, "train")


def test_a_path_that_is_gone_and_a_leading_parent_are_forgiven(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train/a": BOX}, "path: /no/such/place\ntrain: ../images/train\n")
    assert len(read_yolo(tmp_path, "train")) == 1


def test_val_may_be_called_valid(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"v/a": BOX}, "train: images/v\nvalid: images/v\n")
    assert len(read_yolo(tmp_path, "val")) == 1
    with pytest.raises(DataError, match="no split 'test'; it names train, valid"):
        read_yolo(tmp_path, "test")


def test_a_split_without_any_label_file_is_refused(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"val/a": BOX})
    picture(tmp_path / "images/train/b.png")
    with pytest.raises(DataError, match="none of 1 picture of 'train' has a label file"):
        read_yolo(tmp_path, "train")


def test_only_the_last_images_folder_becomes_labels() -> None:
    assert label_path(Path("images/set/images/a/b.jpg")) == Path("images/set/labels/a/b.txt")
    assert label_path(Path("plain/b.jpg")) == Path("plain/b.txt")
