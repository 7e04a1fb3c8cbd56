import shutil
from pathlib import Path

import pytest

from benchmarks.data.detect import detect_format
from export.errors import DataError
from tests.benchmarks.data.tiny import voc_xml, write_coco_root, write_yolo


def _voc(root: Path) -> None:
    (root / "VOCdevkit/VOC2007/Annotations").mkdir(parents=True)
    (root / "VOCdevkit/VOC2007/JPEGImages").mkdir()


def _xml_beside(root: Path) -> None:
    (root / "train").mkdir()
    (root / "train/a.xml").write_text(voc_xml([]), encoding="utf-8")


def _roboflow(root: Path) -> None:
    (root / "train").mkdir()
    (root / "train/_annotations.coco.json").write_text("{}", encoding="utf-8")


def _coco2017(root: Path) -> None:
    (root / "annotations").mkdir()
    (root / "annotations/instances_val2017.json").write_text("{}", encoding="utf-8")


def _yolo(root: Path) -> None:
    shutil.move(write_yolo(root, {}), root / "my_birds.yaml")


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (write_coco_root, "coco"),
        (_coco2017, "coco"),
        (_yolo, "yolo"),
        (_voc, "voc"),
        (_xml_beside, "voc"),
        (_roboflow, "roboflow"),
    ],
)
def test_each_format_is_detected_from_its_files(tmp_path: Path, write, expected: str) -> None:
    write(tmp_path)
    assert detect_format(tmp_path) == expected


def test_the_error_for_an_unknown_format_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"holds notes\.txt, .*data\.yaml.*_annotations\.coco\.json"
    ):
        detect_format(tmp_path)


def test_two_formats_ask_for_a_choice(tmp_path: Path) -> None:
    write_coco_root(tmp_path)
    write_yolo(tmp_path, {})
    with pytest.raises(DataError, match=r"coco \(train\.json\), yolo \(data\.yaml\).*data\.format"):
        detect_format(tmp_path)


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        detect_format(tmp_path / "nowhere")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"a file; data.root should name the folder"):
        detect_format(tmp_path / "file")
