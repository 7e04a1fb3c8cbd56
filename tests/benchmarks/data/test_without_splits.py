"""Data sets that come as one heap of pictures, as labelling tools and repositories keep them."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest

from benchmarks.data.detect import Format, detect_format, own_splits
from benchmarks.data.division import divide, keep_division
from benchmarks.data.folder import read_measured, read_split, read_whole
from benchmarks.data.image_set import ImageSet
from export.errors import DataError
from tests.benchmarks.data.tiny import coco, picture, voc_xml, write_coco, write_yolo

DOG = ("dog", (5, 3, 20, 13), 0)
BOX = "1 0.5 0.5 0.25 0.2\n"


def _voc(root: Path, annotations: str, pictures: str, ending: str = "jpg") -> Path:
    """Three labelled pictures, one of them empty."""
    for number, objects in enumerate(([DOG], [], [DOG, ("cat", (1, 1, 40, 30), 0)])):
        picture(root / pictures / f"{number}.{ending}", shade=60 + number)
        file = root / annotations / f"{number}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(voc_xml(objects), encoding="utf-8")
    return root


def _yolo(root: Path, labels: str, pictures: str, names: str) -> Path:
    for number, text in enumerate((BOX, "", BOX + "0 0.5 0.5 1 1\n")):
        picture(root / pictures / f"{number}.jpg", shade=60 + number)
        file = root / labels / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (root / names).write_text("cat\ndog\n", encoding="utf-8")
    return root


def _read(root: Path) -> ImageSet:
    fmt = detect_format(root)
    assert own_splits(root, fmt) == []
    return read_whole(root, fmt)


@pytest.mark.parametrize(
    ("annotations", "pictures"),
    [
        ("annotations", "images"),
        ("Annotations", "JPEGImages"),
        ("VOC2007/Annotations", "VOC2007/JPEGImages"),
        ("annots", "imgs"),
        ("xml", "Images"),
        (".", "."),
    ],
)
@pytest.mark.parametrize("ending", ["jpg", "JPG", "jfif"])
def test_voc_without_split_lists(
    tmp_path: Path, annotations: str, pictures: str, ending: str
) -> None:
    images = _read(_voc(tmp_path, annotations, pictures, ending))
    assert images.classes == ("cat", "dog")
    # 1-based and inclusive: columns 5..20 begin at edge 4, rows 3..13 at edge 2
    assert images.images[0].boxes.tolist() == [[4, 2, 20, 13]]
    assert [image.labels.tolist() for image in images.images] == [[1], [], [1, 0]]
    assert [path.name for path in images.paths] == [f"{n}.{ending}" for n in range(3)]
    assert images.notes == ("1 picture whose XML file has no object, taken as empty (1.xml)",)


def test_voc_leaves_out_and_counts_what_has_no_other_half(tmp_path: Path) -> None:
    _voc(tmp_path, "annotations", "images")
    picture(tmp_path / "images/new.jpg")
    (tmp_path / "images/0.jpg").unlink()
    (tmp_path / "annotations/._2.xml").write_bytes(b"\0\5\26\7")  # as macOS writes into archives
    images = _read(tmp_path)
    assert [path.name for path in images.paths] == ["1.jpg", "2.jpg"]
    assert images.notes[:2] == (
        "1 picture without an XML file, left out: not labelled (new.jpg)",
        "1 XML file without a picture, left out (0.xml)",
    )


def test_voc_whose_names_do_not_meet_is_refused(tmp_path: Path) -> None:
    _voc(tmp_path, "annotations", "images")
    for file in (tmp_path / "images").iterdir():
        file.rename(file.with_name(f"IMG_{file.name}"))
    message = r"none of its 3 XML files \(0, 1, 2\) has a picture of the same name among the 3"
    with pytest.raises(DataError, match=message):
        _read(tmp_path)


@pytest.mark.parametrize(
    ("labels", "pictures", "names"),
    [
        (".", ".", "classes.txt"),
        ("labels", "images", "classes.txt"),
        ("labels", "images", "labels/classes.txt"),
        ("images", "images", "images/classes.txt"),
        ("obj_train_data", "obj_train_data", "obj.names"),
    ],
)
def test_yolo_with_a_plain_list_of_classes(
    tmp_path: Path, labels: str, pictures: str, names: str
) -> None:
    images = _read(_yolo(tmp_path / "images of birds", labels, pictures, names))
    assert images.classes == ("cat", "dog")
    assert images.category_ids == (0, 1)
    # 40 x 30: centre (20, 15), width 10, height 6
    assert images.images[0].boxes.tolist() == [[15, 12, 25, 18]]
    assert [image.labels.tolist() for image in images.images] == [[1], [], [1, 0]]
    assert images.notes == ("1 picture with an empty label file (1.txt)",)


def test_flat_yolo_below_a_folder_called_images_is_read_beside_the_pictures(
    tmp_path: Path,
) -> None:
    images = _read(_yolo(tmp_path / "images/birds", ".", ".", "classes.txt"))
    assert [len(image.labels) for image in images.images] == [1, 0, 2]


def test_yolo_counts_pictures_without_labels_and_labels_without_pictures(tmp_path: Path) -> None:
    _yolo(tmp_path, ".", ".", "classes.txt")
    (tmp_path / "0.txt").unlink()
    (tmp_path / "2.jpg").unlink()
    picture(tmp_path / "3.jpg")
    (tmp_path / "3.txt").write_text(BOX, encoding="utf-8")
    assert _read(tmp_path).notes == (
        "1 text file without a picture, left out (2.txt)",
        "1 picture without a label file, taken as empty (0.txt)",
        "1 picture with an empty label file (1.txt)",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no class names in it"),
        ("cat\n\ndog\n", r"classes\.txt:2: class name '' is empty"),
        ("cat\ncat\n", "'cat' is there twice"),
        ("cat\n", r"0\.txt:1: class 1 is not among 0\.\.0"),
        ("\ufeffcat\r\ndog\r\n\r\n", ""),
    ],
)
def test_a_list_of_classes_is_checked(tmp_path: Path, text: str, message: str) -> None:
    _yolo(tmp_path, ".", ".", "classes.txt")
    (tmp_path / "classes.txt").write_bytes(text.encode())
    if not message:
        assert _read(tmp_path).classes == ("cat", "dog")
        return
    with pytest.raises(DataError, match=message):
        _read(tmp_path)


def test_label_files_without_any_list_of_classes_get_advice(tmp_path: Path) -> None:
    _yolo(tmp_path / "a", ".", ".", "classes.txt")
    _yolo(tmp_path / "b", "labels", "images", "classes.txt")
    for root in (tmp_path / "a", tmp_path / "b"):
        (root / "classes.txt").unlink()
        with pytest.raises(DataError, match=r"write the class names into classes\.txt there"):
            detect_format(root)


def test_yolo_split_folders_with_a_plain_list_of_classes(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        _yolo(tmp_path, f"labels/{split}", f"images/{split}", "classes.txt")
    assert detect_format(tmp_path) == "yolo"
    assert own_splits(tmp_path, "yolo") == ["train", "valid"]
    assert len(read_split(tmp_path, "val", "yolo")) == 3
    with pytest.raises(DataError, match=r"no folder 'test' .*train, valid"):
        read_split(tmp_path, "test", "yolo")


def test_a_data_yaml_that_names_no_split(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": BOX, "b": BOX}, "train:\nnames: [cat, dog]\n")
    assert len(_read(tmp_path)) == 2


@pytest.mark.parametrize("place", ["annotations.json", "annotations/instances_default.json"])
def test_coco_in_a_single_file(tmp_path: Path, place: str) -> None:
    file = write_coco(tmp_path, "once", coco(3))
    (tmp_path / place).parent.mkdir(exist_ok=True)
    file.rename(tmp_path / place)
    (tmp_path / "notes.json").write_text("{}", encoding="utf-8")
    images = _read(tmp_path)
    assert [image.labels.tolist() for image in images.images] == [[1], [0], [1]]


def test_two_coco_files_without_the_name_of_a_split_ask_for_a_choice(tmp_path: Path) -> None:
    write_coco(tmp_path, "one", coco(2))
    write_coco(tmp_path, "two", coco(2, start=5))
    message = r"2 COCO files .*: one\.json, two\.json\. Name .*data\.train\.path"
    with pytest.raises(DataError, match=message):
        _read(tmp_path)


def test_a_roboflow_export_without_split_folders(tmp_path: Path) -> None:
    file = write_coco(tmp_path, "once", coco(3))
    file.rename(tmp_path / "_annotations.coco.json")
    assert detect_format(tmp_path) == "roboflow"
    assert len(_read(tmp_path)) == 3


def test_a_folder_named_as_a_split_may_be_a_heap_of_any_format(tmp_path: Path) -> None:
    _yolo(tmp_path / "y", ".", ".", "classes.txt")
    _voc(tmp_path / "v", "annotations", "images")
    write_coco(tmp_path / "c", "all", coco(3))
    folders: dict[str, Format] = {"y": "yolo", "v": "voc", "c": "coco"}
    for name, fmt in folders.items():
        assert len(read_split(tmp_path, "train", fmt, path=tmp_path / name)) == 3


def test_a_data_set_one_folder_further_down_is_pointed_out(tmp_path: Path) -> None:
    _voc(tmp_path / "BCCD", "Annotations", "JPEGImages")
    shutil.copytree(tmp_path / "BCCD", tmp_path / "other/deeper/still")
    with pytest.raises(DataError, match="A data set lies in BCCD below it"):
        detect_format(tmp_path)


def test_a_list_of_classes_beside_named_splits_changes_nothing(tmp_path: Path) -> None:
    write_coco(tmp_path, "train", coco(2))
    (tmp_path / "classes.txt").write_text("cat\n", encoding="utf-8")
    (tmp_path / "more.json").write_text(json.dumps(coco(1)), encoding="utf-8")
    assert detect_format(tmp_path) == "coco"
    assert own_splits(tmp_path, "coco") == ["train"]


def test_the_formats_of_two_labelling_tools_in_one_folder_ask_for_a_choice(
    tmp_path: Path,
) -> None:
    _yolo(tmp_path, ".", ".", "classes.txt")
    _voc(tmp_path, ".", ".")
    with pytest.raises(DataError, match=r"yolo \(classes\.txt\), voc \(0\.xml\).*data\.format"):
        detect_format(tmp_path)


def test_pictures_to_measure_on_come_from_a_file_or_any_folder(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "c", "val", coco(3))
    assert len(read_measured(file)) == 3
    assert len(read_measured(tmp_path / "c")) == 3
    assert len(read_measured(_voc(tmp_path / "v", "annotations", "images"), "all")) == 3
    for split in ("train", "valid"):
        _yolo(tmp_path / "y", f"labels/{split}", f"images/{split}", "classes.txt")
    assert len(read_measured(tmp_path / "y")) == 3
    with pytest.raises(DataError, match=r"no splits of its own\. Measure .*--split all"):
        read_measured(tmp_path / "v")
    with pytest.raises(DataError, match="no folder 'all'"):
        read_measured(tmp_path / "y", "all")


def test_the_side_that_a_run_held_out_is_measured_again(tmp_path: Path) -> None:
    root, file = _voc(tmp_path / "v", ".", "."), tmp_path / "split.json"
    division = divide(read_whole(root, "voc"), root, 0.5, 0.0, 0)
    keep_division(division, file)
    side = read_measured(root, "val", division=file)
    assert side.paths == division.of("val").paths
    assert side.fingerprint == division.of("val").fingerprint
    with pytest.raises(DataError, match=r"no picture on the side 'test'; it has train, val"):
        read_measured(root, "test", division=file)
    with pytest.raises(DataError, match=r"a file; .*split\.json divides the folder"):
        read_measured(write_coco(tmp_path, "one", coco(1)), division=file)
    picture(side.paths[0], shade=7)
    with pytest.raises(DataError, match=r"1 of [12] pictures? on the side 'val' .*changed"):
        read_measured(root, "val", division=file)


def test_pictures_behind_a_link_are_read_once(tmp_path: Path) -> None:
    root = _yolo(tmp_path / "set", "labels", "images", "classes.txt")
    for kind, ending in (("images", "jpg"), ("labels", "txt")):
        (tmp_path / "disk" / kind).mkdir(parents=True)
        (root / kind / f"0.{ending}").rename(tmp_path / "disk" / kind / f"0.{ending}")
        (root / kind / "more").symlink_to(tmp_path / "disk" / kind)
    (root / "images/circle").symlink_to(root / "images")
    images = _read(root)
    assert [path.name for path in images.paths] == ["1.jpg", "2.jpg", "0.jpg"]
    assert [image.labels.tolist() for image in images.images] == [[], [1, 0], [1]]


def test_names_written_on_windows_or_a_mac_are_found(tmp_path: Path) -> None:
    document = coco(3)
    names = ("cam1\\1.png", "cam2\\1.png", "M\u00fcll.png")
    for number, (entry, name) in enumerate(zip(document["images"], names, strict=True)):
        entry["file_name"] = name
        spelled = unicodedata.normalize("NFD", name.replace("\\", "/"))
        picture(tmp_path / "images" / spelled, shade=60 + number)
    (tmp_path / "all.json").write_text(json.dumps(document), encoding="utf-8")
    found = [path.relative_to(tmp_path / "images").parts for path in _read(tmp_path).paths]
    assert found[:2] == [("cam1", "1.png"), ("cam2", "1.png")]
    assert found[2] == (unicodedata.normalize("NFD", "M\u00fcll.png"),)


def test_lists_and_labels_may_carry_a_byte_order_mark_and_backslashes(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a/1": BOX, "b/1": BOX}, "train: train.txt\n")
    label = tmp_path / "labels/a/1.txt"
    label.write_text("\ufeff" + label.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "train.txt").write_bytes("\ufeffimages\\b\\1.png\r\nimages\\a\\1.png\r\n".encode())
    images = read_split(tmp_path, "train", "yolo")
    assert [path.parent.name for path in images.paths] == ["b", "a"]
    assert [len(image.labels) for image in images.images] == [1, 1]


def test_a_split_list_of_voc_may_carry_a_byte_order_mark(tmp_path: Path) -> None:
    _voc(tmp_path, "Annotations", "JPEGImages")
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes("\ufeff0\r\n2\r\n".encode())
    assert own_splits(tmp_path, "voc") == ["train"]
    assert len(read_split(tmp_path, "train", "voc")) == 2
