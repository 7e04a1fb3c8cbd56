from pathlib import Path

import pytest

from benchmarks.data.voc import read_voc
from export.errors import DataError
from tests.benchmarks.data.tiny import picture, voc_xml

DOG = ("dog", (5, 3, 20, 13), 0)


def _devkit(root: Path, year: str = "VOC2012") -> Path:
    home = root / year
    for folder in ("Annotations", "ImageSets/Main"):
        (home / folder).mkdir(parents=True)
    for stem, objects in {"a": [DOG], "b": [("cat", (1, 1, 40, 30), 1)]}.items():
        picture(home / "JPEGImages" / f"{stem}.jpg")
        (home / "Annotations" / f"{stem}.xml").write_text(voc_xml(objects), encoding="utf-8")
    (home / "ImageSets/Main/train.txt").write_text("a\n", encoding="utf-8")
    (home / "ImageSets/Main/val.txt").write_text("b\n", encoding="utf-8")
    return home


@pytest.mark.parametrize("at", ["VOC2012", "."])
def test_one_based_inclusive_corners_become_edges(tmp_path: Path, at: str) -> None:
    _devkit(tmp_path)
    images = read_voc(tmp_path / at, "train")
    # columns 5..20 are 16 wide and begin at edge 4; rows 3..13 are 11 high and begin at edge 2
    assert images.images[0].boxes.tolist() == [[4, 2, 20, 13]]
    assert images.images[0].areas.tolist() == [16 * 11]


def test_classes_come_from_all_splits_sorted(tmp_path: Path) -> None:
    _devkit(tmp_path)
    for split in ("train", "val"):
        images = read_voc(tmp_path, split)
        assert images.classes == ("cat", "dog")
        assert images.category_ids == (1, 2)


def test_difficult_objects_become_crowd_with_a_note(tmp_path: Path) -> None:
    _devkit(tmp_path)
    images = read_voc(tmp_path, "val")
    assert images.images[0].crowd.tolist() == [True]
    assert images.images[0].boxes.tolist() == [[0, 0, 40, 30]]
    assert images.notes[0].startswith("1 object marked difficult")


def test_given_classes_come_first_and_the_others_follow(tmp_path: Path) -> None:
    _devkit(tmp_path)
    images = read_voc(tmp_path, "train", classes=("cow", "dog"))
    assert images.images[0].labels.tolist() == [1]
    assert images.classes[:2] == ("cow", "dog")
    assert "dog" in read_voc(tmp_path, "train", classes=("cat",)).classes[1:]


def test_given_classes_of_which_the_set_has_no_object_are_refused(tmp_path: Path) -> None:
    _devkit(tmp_path)
    with pytest.raises(DataError, match=r"has no object of cow\. It has: "):
        read_voc(tmp_path, "train", classes=("cow",))


def test_xml_beside_the_pictures_in_split_folders(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / "a.png")
        (tmp_path / split / "a.xml").write_text(voc_xml([DOG]), encoding="utf-8")
    assert len(read_voc(tmp_path, "val")) == 1
    assert len(read_voc(tmp_path, "other", path=tmp_path / "train")) == 1
    (tmp_path / "train" / "a.png").unlink()
    with pytest.raises(DataError, match=r"1 XML files lack a picture: a\.xml"):
        read_voc(tmp_path, "train")


def test_two_years_are_read_together(tmp_path: Path) -> None:
    _devkit(tmp_path, "VOC2007")
    _devkit(tmp_path, "VOC2012")
    assert [path.parts[-3] for path in read_voc(tmp_path, "train").paths] == ["VOC2007", "VOC2012"]


def test_a_missing_split_lists_those_there(tmp_path: Path) -> None:
    _devkit(tmp_path)
    with pytest.raises(DataError, match=r"no ImageSets/Main/test\.txt; lists there: train, val"):
        read_voc(tmp_path, "test")


def test_a_listed_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    home = _devkit(tmp_path)
    (home / "JPEGImages/a.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 1 entry lacks .*: a"):
        read_voc(tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "<annotation><object><name>a</name><polygon/></object></annotation>",
            r"object 1 has no <bndbox>, and .* \(it has name, polygon\)",
        ),
        (
            voc_xml([DOG, DOG]).replace("</object>", "<bndbox/></object>"),
            "object 1 has 2 <bndbox>; expected one; write an <object> for each",
        ),
        (voc_xml([DOG]).replace("<xmin>", "<xmin>3</xmin><xmin>"), "bndbox has 2 <xmin>"),
        (voc_xml([DOG]).replace("<name>", "<name>a</name><name>"), "object 1 has 2 <name>"),
        ("<annotation>", "cannot be read as XML"),
        ("<html/>", "root is <html>"),
        (voc_xml([("dog", ("x", 1, 2, 2), 0)]), "object 1: bndbox/xmin is 'x'"),
        (voc_xml([("dog", (1, 1, float("nan"), 2), 0)]), "bndbox/xmax is 'nan'"),
        (voc_xml([("", (1, 1, 2, 2), 0)]), "object 1 has no name"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "DOCTYPE"),
    ],
)
def test_a_wrong_xml_is_named(tmp_path: Path, text: str, message: str) -> None:
    home = _devkit(tmp_path)
    (home / "Annotations/a.xml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_voc(tmp_path, "train")
    assert "a.xml" in str(caught.value)


def test_pictures_that_no_split_list_names_are_counted(tmp_path: Path) -> None:
    home = _devkit(tmp_path)
    for stem in ("c", "d", "e e"):
        picture(home / "JPEGImages" / f"{stem}.jpg")
    for stem in ("c", "e e"):
        (home / "Annotations" / f"{stem}.xml").write_text(voc_xml([DOG]), encoding="utf-8")
    (home / "ImageSets/Main/dog_val.txt").write_text("b  1\ne e -1\n", encoding="utf-8")
    assert read_voc(tmp_path, "train").tally.left_out == {
        "pictures with an XML file that no split list names, left out": 1,
        "pictures without an XML file, left out: not labelled": 1,
    }


def test_an_object_that_stands_twice_is_read_once_and_counted(tmp_path: Path) -> None:
    home = _devkit(tmp_path)
    (home / "Annotations/a.xml").write_text(voc_xml([DOG, DOG]), encoding="utf-8")
    tally = read_voc(tmp_path, "train").tally
    assert (tally.written, tally.kept) == (2, 1)
    assert tally.dropped == {"the same box and class twice in a picture": 1}
