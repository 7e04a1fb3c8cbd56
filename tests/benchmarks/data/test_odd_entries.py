"""What stands in the place of label files and lists: links, folders, pipes, foreign files."""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.data.folder import read_measured
from benchmarks.data.pictures import read_pictures
from compress.data.config import FolderConfig
from export.errors import DataError
from tests.benchmarks.data.tiny import coco, picture, voc_xml, write_coco, write_yolo

LINE = "0 0.225 0.3 0.25 0.2666666666666667\n"
SECRET = "root:x:0:0:SECRET\nSECRET 1 2 3 4\n"
NFC, NFD = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")


def _dead_link(path: Path) -> None:
    path.symlink_to("/nowhere/a.txt")


ENTRIES: list[Callable[[Path], None]] = [_dead_link, Path.mkdir, os.mkfifo]


def _voc(root: Path) -> Path:
    picture(root / "images" / "a.png")
    file = root / "annotations" / "a.xml"
    file.parent.mkdir()
    file.write_text(voc_xml([("dog", (1, 1, 9, 9), 0)]), encoding="utf-8")
    return file


def _flat(root: Path) -> Path:
    picture(root / "a.png")
    (root / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    (root / "a.txt").write_text(LINE, encoding="utf-8")
    return root


def _outside(tmp_path: Path, name: str = "secret.txt", text: str = SECRET) -> Path:
    """Write a file beside the data set in `set/`."""
    file = tmp_path / "foreign" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _message(root: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        read_measured(root, split)
    return str(caught.value)


@pytest.mark.parametrize("put", ENTRIES, ids=["dead link", "folder", "pipe"])
def test_a_label_that_is_no_file_is_refused_and_no_negative(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    write_yolo(tmp_path / "y", {"train/a": LINE, "train/b": LINE})
    for file, split in (
        (tmp_path / "y/labels/train/a.txt", "train"),
        (_voc(tmp_path / "v"), "all"),
    ):
        file.unlink()
        put(file)
        said = _message(file.parents[2] if split == "train" else tmp_path / "v", split)
        assert said.startswith(f"{file}: ")
        assert "put the file there, or remove the entry" in said


def test_a_link_that_leads_nowhere_in_place_of_a_label_folder_is_refused(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train/a": LINE, "train/sub/b": LINE})
    (tmp_path / "labels/train/sub/b.txt").unlink()
    (tmp_path / "labels/train/sub").rmdir()
    assert len(read_measured(tmp_path, "train").images[1].boxes) == 0  # no folder: no label files
    (tmp_path / "labels/train/sub").symlink_to("/nowhere/sub")
    assert "labels/train/sub: a link that leads nowhere" in _message(tmp_path)


def test_a_label_file_that_is_a_link_out_of_the_set_is_named_and_not_quoted(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_yolo(root, {"train/a": LINE, "train/b": LINE})
    label = root / "labels/train/a.txt"
    for text in (SECRET, "7777 .5 .5 .1 .1\n", "77.5 .5 .5 .1 .1\n"):
        _link(label, _outside(tmp_path, text=text))
        said = _message(root)
        assert said.startswith(f"{label}:1: ")
        assert "SECRET" not in said
        assert "77" not in said.removeprefix(str(label))
    label.unlink()
    label.write_text(SECRET, encoding="utf-8")
    assert "SECRET" in _message(root)  # its own file is quoted


def test_lists_that_are_links_out_of_the_set_are_not_quoted(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    _voc(root / "VOC2007")
    (root / "VOC2007/ImageSets/Main").mkdir(parents=True)
    _link(root / "VOC2007/ImageSets/Main/train.txt", _outside(tmp_path))
    said = _message(root)
    assert "line 1, line 2" in said
    assert "SECRET" not in said
    write_yolo(tmp_path / "yolo", {"train/a": LINE})
    for text in (SECRET, "a: {SECRET: 1\n", "names: [{SECRET: 1}]\n"):
        _link(tmp_path / "yolo/data.yaml", _outside(tmp_path, text=text))
        with pytest.raises(DataError) as caught:
            read_measured(tmp_path / "yolo", "train")
        assert "SECRET" not in str(caught.value)
    write_coco(tmp_path / "coco", "train", coco())
    _link(tmp_path / "coco/train.json", _outside(tmp_path, text='{"SECRET": 1}'))
    assert "SECRET" not in _message(tmp_path / "coco")
    _link(tmp_path / "coco/train.json", _outside(tmp_path, text='{"SECRET": 1, "SECRET": 2}'))
    assert "SECRET" not in _message(tmp_path / "coco")


def test_a_list_of_class_names_is_no_link_to_just_any_file(tmp_path: Path) -> None:
    root = _flat(tmp_path / "set")
    _link(root / "classes.txt", _outside(tmp_path))
    said = _message(root, "all")
    assert "classes.txt: a link out of the data set" in said
    assert "SECRET" not in said
    for name in ("classes.txt", "obj.names", "f" * 40, f"MD5E-s8--{'0' * 32}.txt"):
        _link(root / "classes.txt", _outside(tmp_path, name, "cat\ndog\n"))
        assert read_measured(root, "all").classes == ("cat", "dog")


def test_linked_sets_and_folders_are_read(tmp_path: Path) -> None:
    write_yolo(tmp_path / "real", {"train/a": LINE, "train/b": LINE})
    (tmp_path / "set").mkdir()
    for name in ("images", "labels", "data.yaml"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "whole").symlink_to(tmp_path / "set")
    for root in (tmp_path / "set", tmp_path / "whole"):
        found = read_measured(root, "train")
        assert [len(image.boxes) for image in found.images] == [1, 1]


def test_class_names_of_two_unicode_forms_are_the_same(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    for split, name, start in (("train", NFC, 1), ("val", NFD, 51)):
        document = coco(2, ids=(1,), start=start)
        document["categories"] = [{"id": 1, "name": name}]
        write_coco(root, split, document, shade=start)
    opened = FolderConfig(root=root, image_size=64, classes=(NFD,)).open()
    assert opened.classes == opened.val.classes == (NFC,)
    write_yolo(tmp_path / "y", {"train/a": LINE}, extra=f"names: [{json.dumps(NFD)}]\n")
    assert read_measured(tmp_path / "y", "train").classes == (NFC,)
    (_flat(tmp_path / "f") / "classes.txt").write_text(NFD, encoding="utf-8")
    assert read_measured(tmp_path / "f", "all").classes == (NFC,)
    file = _voc(tmp_path / "v")
    objects = [(NFC, (1, 1, 9, 9), 0), (NFD, (11, 11, 19, 19), 0)]
    file.write_text(voc_xml(objects), encoding="utf-8")
    assert read_measured(tmp_path / "v", "all").classes == (NFC,)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_pictures_with_more_frames_than_the_one_that_is_read_are_counted(
    tmp_path: Path, kind: str
) -> None:
    write_yolo(tmp_path, {"train/a": LINE, "train/b": LINE, "train/c": LINE})
    frames = [Image.new("RGB", (40, 30), shade) for shade in ("red", "blue", "green")]
    for name in "ab":
        file = tmp_path / f"images/train/{name}.png"
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "images/train/c.png", "JPEG" if kind == "MPO" else kind)
    (said,) = read_measured(tmp_path, "train").notes
    assert said == (
        "2 pictures with more than one frame, of which only the first is read (a.png, b.png)"
    )
    (loose,) = read_pictures(tmp_path / "images/train", "unlabeled", ("cat",), (1,)).notes
    assert loose == said
