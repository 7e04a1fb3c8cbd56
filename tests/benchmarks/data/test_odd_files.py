"""Files as people, tools and other machines write them: read rightly, or refused in one message."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.data.annotations import ReadingNotes
from benchmarks.data.folder import read_measured
from benchmarks.data.image_set import ImageSet
from export.errors import DataError
from tests.benchmarks.data.tiny import coco, picture, voc_xml, write_coco, write_yolo

LINE = "0 0.225 0.3 0.25 0.2666666666666667\n"  # the box 4 5 14 13 of a 40 x 30 picture
BOX = [4, 5, 14, 13]


def _voc(root: Path, text: str | bytes, name: str = "a") -> Path:
    picture(root / "images" / f"{name}.png")
    file = root / "annotations" / f"{name}.xml"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def _all(root: Path) -> ImageSet:
    return read_measured(root, "all")


def _change(change: Callable[[dict[str, Any]], None], root: Path) -> ImageSet:
    document = coco(3)
    change(document)
    write_coco(root, "train", document)
    return read_measured(root, "train")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_text_files_say_their_encoding_by_a_mark(tmp_path: Path, encoding: str) -> None:
    write_yolo(tmp_path, {"train/a": ""})
    text = LINE.replace("\n", "\r\n")
    (tmp_path / "labels/train/a.txt").write_bytes(text.encode(encoding))
    (tmp_path / "data.yaml").write_bytes("train: images/train\nnames: [cat]".encode(encoding))
    assert read_measured(tmp_path, "train").images[0].boxes.round(6).tolist() == [BOX]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("{'0': red, '1': blue}", ("red", "blue")),
        ("{1: blue, 0: red}", ("red", "blue")),
        ("[no, 1.0, 2024-01-01, 0x1F]", ("no", "1.0", "2024-01-01", "0x1F")),
        ("['null']", ("null",)),
    ],
)
def test_class_names_are_read_as_they_are_written(
    tmp_path: Path, names: str, expected: tuple[str, ...]
) -> None:
    write_yolo(tmp_path, {"train/a": LINE}, f"names: {names}\n")
    assert read_measured(tmp_path, "train").classes == expected


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("[cat, null]", r"names\[1\]: found null"),
        ("[cat, ~]", r"names\[1\]: found null"),
        ("[cat, [dog]]", r"names\[1\]: found a list"),
        (r'["a\nb"]', r"data\.yaml:3: names\[0\]: holds the control character U\+000A"),
        (r'["a\u2028b"]', r"holds the control character U\+2028"),
        (r'["\e[31mred"]', r"holds the control character U\+001B"),
        (r'["\u202ecat"]', r"holds the control character U\+202E"),
        ("['  ']", r"names\[0\]: class name '  ' is empty"),
        ("{0: a, '0': b}", "names: key '0' is there twice"),
        ("{0: a, 2: b}", "expected 0, 1, 2"),
        ("{zero: a}", "key 'zero'; expected 0, 1, 2"),
        ("[caf\u00e9, cafe\u0301]", "is there twice"),
    ],
)
def test_class_names_that_cannot_stand_in_a_line_are_refused(
    tmp_path: Path, names: str, said: str
) -> None:
    write_yolo(tmp_path, {"train/a": LINE}, f"names: {names}\n")
    with pytest.raises(DataError, match=said):
        read_measured(tmp_path, "train")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\u2029b", "", "  ", None, 3, "x" * 5000])
def test_every_format_refuses_the_same_class_names(tmp_path: Path, name: object) -> None:
    def rename(document: dict[str, Any]) -> None:
        document["categories"][0]["name"] = name

    with pytest.raises(DataError, match=r"train\.json: categories\[0\]: class name") as caught:
        _change(rename, tmp_path)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_a_list_that_a_split_names_is_not_quoted_unless_it_names_pictures(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train/a": LINE}, "train: secret\nval: images/train/a.png\n")
    (tmp_path / "secret").write_text("root:x:0:0\nother line\n", encoding="utf-8")
    with pytest.raises(DataError, match="2 of 2 lines do not end like a picture") as caught:
        read_measured(tmp_path, "train")
    assert "root" not in str(caught.value).replace(str(tmp_path), "")
    with pytest.raises(DataError, match=r"val: images/train/a\.png is a picture; expected a f"):
        read_measured(tmp_path, "val")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
def test_entities_are_refused_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    stated = encoding.removesuffix("-be")
    bomb = f'<?xml version="1.0" encoding="{stated}"?><!DOCTYPE z [<!ENTITY a "lol">]>'
    text = bomb + voc_xml([("&a;", (5, 6, 14, 13), 0)])
    _voc(tmp_path, (b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding))
    with pytest.raises(DataError, match="holds a DOCTYPE"):
        _all(tmp_path)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("1", True), ("True", True), (" yes ", True), ("0", False), ("FALSE", False), ("", False)],
)
def test_difficult_is_understood_however_it_is_written(
    tmp_path: Path, written: str, expected: bool
) -> None:
    text = voc_xml([("cat", (5, 6, 14, 13), 0)]).replace(
        ">0</difficult>", f">{written}</difficult>"
    )
    _voc(tmp_path, text)
    assert _all(tmp_path).images[0].crowd.tolist() == [expected]


def test_a_difficult_that_is_not_understood_is_refused(tmp_path: Path) -> None:
    _voc(tmp_path, voc_xml([("cat", (5, 6, 14, 13), 7)]))
    with pytest.raises(DataError, match=r"a\.xml: object 1: difficult is '7'; expected 0 or 1"):
        _all(tmp_path)


def test_ids_may_be_written_with_a_point_and_crowd_as_a_word(tmp_path: Path) -> None:
    def rewrite(document: dict[str, Any]) -> None:
        for entry in (*document["images"], *document["annotations"], *document["categories"]):
            entry |= {key: float(v) for key, v in entry.items() if key.endswith("id")}
        document["annotations"][1]["iscrowd"] = "true"
        document["annotations"][2]["is_crowd"] = 1

    found = _change(rewrite, tmp_path)
    assert found.category_ids == (3, 7)
    assert [image.boxes.tolist() for image in found.images] == [[BOX]] * 3
    assert [image.crowd.tolist() for image in found.images] == [[False], [True], [True]]


HUGE = 10**400


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("annotations", "bbox", [HUGE, 1, 2, 3]),
        ("annotations", "bbox", [1, 2, float("nan"), 3]),
        ("annotations", "bbox", [1, 2, float("inf"), 3]),
        ("annotations", "bbox", [True, 2, 3, 4]),
        ("annotations", "bbox", ["1", 2, 3, 4]),
        ("annotations", "bbox", "x" * 100_000),
        ("annotations", "area", HUGE),
        ("annotations", "iscrowd", 2),
        ("annotations", "image_id", HUGE),
        ("annotations", "image_id", 99),
        ("annotations", "category_id", True),
        ("annotations", "id", ["x" * 9000]),
        ("images", "id", HUGE),
        ("images", "width", HUGE),
        ("images", "width", -3),
        ("images", "file_name", "x" * 5000),
        ("images", "file_name", "a\0b"),
        ("images", "file_name", "y" * 300),
        ("categories", "id", HUGE),
        ("categories", "supercategory", ["a"]),
    ],
)
def test_a_value_that_no_set_can_hold_is_one_short_message(
    tmp_path: Path, part: str, key: str, value: object
) -> None:
    write_coco(tmp_path, "train", coco(3))
    document = coco(3)
    document[part][0][key] = value
    (tmp_path / "train.json").write_text(json.dumps(document), encoding="utf-8")
    if (part, key) == ("annotations", "id"):
        assert read_measured(tmp_path, "train").tally.kept == 3
        return
    with pytest.raises(DataError) as caught:
        read_measured(tmp_path, "train")
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_names_of_another_machine_are_found_by_their_last_folders(tmp_path: Path) -> None:
    for folder, shade in (("cam1", 50), ("cam2", 200)):
        picture(tmp_path / "images" / folder / "1.png", shade=shade)

    def rename(document: dict[str, Any]) -> None:
        del document["images"][2], document["annotations"][2]
        document["images"][0]["file_name"] = "/home/x/set/cam2/1.png"
        document["images"][1]["file_name"] = r"C:\set\cam1\1.PNG"

    document = coco(3)
    rename(document)
    (tmp_path / "train.json").write_text(json.dumps(document), encoding="utf-8")
    found = read_measured(tmp_path, "train")
    assert [path.parent.name for path in found.paths] == ["cam2", "cam1"]
    document["images"][0]["file_name"] = "/home/x/1.png"
    (tmp_path / "train.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DataError, match=r"1 name fits several pictures: '/home/x/1\.png' "):
        read_measured(tmp_path, "train")


def test_yolo_entries_of_another_machine_are_found_and_counted(tmp_path: Path) -> None:
    extra = "train: /content/drive/set/images/train\nval: val.txt\n"
    write_yolo(tmp_path, {"train/a": LINE, "val/b": LINE}, extra)
    (tmp_path / "val.txt").write_text("D:\\set\\images\\val\\b.png\n", encoding="utf-8")
    for split in ("train", "val"):
        found = read_measured(tmp_path, split)
        assert found.tally.kept == 1
        assert any(note.startswith("1 path of another machine") for note in found.notes)


def test_endings_and_names_may_differ_in_letter_case_and_unicode_form(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "M\u00fcll")
    write_yolo(tmp_path, {f"train/{name}": LINE})
    (tmp_path / f"images/train/{name}.png").rename(tmp_path / f"images/train/{name}.PNG")
    composed = unicodedata.normalize("NFC", name)
    (tmp_path / f"labels/train/{name}.txt").rename(tmp_path / f"labels/train/{composed}.TXT")
    assert read_measured(tmp_path, "train").tally.kept == 1
    _voc(tmp_path / "voc", "", "x").unlink()
    (tmp_path / "voc/annotations/X.XML").write_text(
        voc_xml([("cat", (5, 6, 14, 13), 0)]), encoding="utf-8"
    )
    assert _all(tmp_path / "voc").images[0].boxes.tolist() == [BOX]


def test_what_is_left_out_of_a_folder_is_counted(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train/a": LINE, "train/b": LINE})
    folder, labels = tmp_path / "images/train", tmp_path / "labels/train"
    (folder / "photo.heic").write_bytes(b"x")
    (folder / "._a.png").write_bytes(b"x")
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    picture(folder / ".hidden.png")
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    (folder / "around").symlink_to(tmp_path, target_is_directory=True)
    picture(tmp_path / "images/val/other.png")
    (labels / "lost.txt").write_text(LINE, encoding="utf-8")
    (labels / "cam3").mkdir()
    (labels / "cam3" / "also_lost.txt").write_text(LINE, encoding="utf-8")
    found = read_measured(tmp_path, "train")
    assert len(found) == 2
    assert found.tally.left_out == {
        "files that are no picture by their ending, left out": 1,
        "links or other entries that lead to no picture file, left out": 1,
        "hidden pictures, left out": 1,
        "text files without a picture, left out": 2,
    }


def test_a_link_back_to_the_set_from_a_linked_folder_brings_no_other_split(tmp_path: Path) -> None:
    root, store = tmp_path / "set", tmp_path / "store"
    write_yolo(root, {"train/a": LINE, "val/b": LINE})
    (root / "images/train").rename(store)
    (root / "images/train").symlink_to(store, target_is_directory=True)
    (store / "round").symlink_to(root, target_is_directory=True)
    assert [image.file_name for image in read_measured(root, "train").images] == ["a.png"]


def test_a_text_file_in_place_of_a_link_is_refused(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train/a": LINE})
    (tmp_path / "images/train/cam2").write_text("../../../store/cam2", encoding="utf-8")
    with pytest.raises(DataError, match=r"cam2: a text file that holds the path \.\./\.\./.*link"):
        read_measured(tmp_path, "train")


def test_corners_in_a_coco_file_are_pointed_out(tmp_path: Path) -> None:
    def corners(document: dict[str, Any]) -> None:
        for entry in document["annotations"]:
            entry["bbox"] = [20, 12, 38, 28]

    (warning,) = _change(corners, tmp_path).warnings
    assert warning.startswith("3 of 3 boxes end outside their picture or have no area; they look ")
    assert "they look like corners x1 y1 x2 y2, where x y width height from the top" in warning
    assert not _change(lambda _: None, tmp_path).warnings


def test_corners_in_label_files_and_fractions_in_xml_are_pointed_out(tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", {"train/a": "0 .8 .1 .9 .3\n0 .7 .1 .9 .2\n1 .6 .5 .95 .9\n"})
    (warning,) = read_measured(tmp_path / "yolo", "train").warnings
    assert "they look like corners x1 y1 x2 y2" in warning
    boxes = [("cat", (0.1, 0.1, 0.5, 0.6), 0), ("cat", (0.2, 0.2, 0.9, 0.9), 0)]
    _voc(tmp_path / "voc", voc_xml([*boxes, *boxes]))
    (warning,) = _all(tmp_path / "voc").warnings
    assert "look like fractions" in warning


def test_written_objects_are_kept_or_dropped_for_a_reason(tmp_path: Path) -> None:
    def spoil(document: dict[str, Any]) -> None:
        document["annotations"][0]["bbox"] = [4, 5, -3, 8]
        document["annotations"][1]["bbox"] = [400, 5, 3, 8]

    tally = _change(spoil, tmp_path).tally
    assert (tally.written, tally.kept) == (3, 1)
    assert tally.dropped == {"no area": 1, "outside the picture": 1}
    assert tally.line() == (
        "3 objects written, 1 kept, 2 left out: 1 no area, 1 outside the picture"
    )


def test_a_split_list_may_hold_stems_with_blanks_file_names_and_flags(tmp_path: Path) -> None:
    for name in ("a 1", "b", "c"):
        picture(tmp_path / "JPEGImages" / f"{name}.png")
        file = tmp_path / "Annotations" / f"{name}.xml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(voc_xml([("cat", (5, 6, 14, 13), 0)]), encoding="utf-8")
    listed = tmp_path / "ImageSets/Main/train.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("a 1\nJPEGImages\\b.png\nc -1\nb\n", encoding="utf-8")
    found = read_measured(tmp_path, "train")
    assert [image.file_name for image in found.images] == ["a 1.png", "b.png", "c.png"]
    assert any("twice, read once" in note for note in found.notes)


@pytest.mark.parametrize(
    ("phrase", "single"),
    [
        ("boxes dropped: no area", "1 box dropped: no area"),
        ("pictures that share the label file of another", "1 picture that shares the label file"),
        ("files that are no picture by their ending, left out", "1 file that is no picture by its"),
        ("annotation ids are there twice, read as two", "1 annotation id is there twice, read as"),
        ("entries of the split list without a picture", "1 entry of the split list without a pic"),
        ("objects marked `ignore`: they are read", "1 object marked `ignore`: they are read"),
    ],
)
def test_a_note_on_a_single_case_is_singular(phrase: str, single: str) -> None:
    notes = ReadingNotes()
    notes.add(phrase, "a")
    assert notes.sentences()[0].startswith(single)
    notes.add(phrase, "b")
    assert notes.sentences() == (f"2 {phrase} (a, b)",)
