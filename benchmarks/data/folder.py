"""Read a data set from its folder, whatever its format."""

from pathlib import Path
from typing import Literal

from benchmarks.data.coco import read_coco_split, read_coco_whole
from benchmarks.data.detect import Format, detect_format, own_splits
from benchmarks.data.image_set import ImageSet
from benchmarks.data.roboflow import ANNOTATIONS, read_roboflow
from benchmarks.data.voc import read_voc, xml_files
from benchmarks.data.yolo import read_yolo
from export.errors import DataError

_ENDINGS: dict[str, Format] = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".txt": "voc"}


def format_of(root: Path, path: Path | None, wanted: Format | Literal["auto"]) -> Format:
    """Return the format of one split: as wanted, or told from its own path or the set's folder.

    Raises:
        DataError: no format fits, or several do.
    """
    if wanted != "auto":
        return wanted
    if path is None:
        return detect_format(root)
    if path.is_dir():
        if (path / ANNOTATIONS).is_file():
            return "roboflow"
        return "voc" if xml_files(path) else detect_format(path)
    if path.name == ANNOTATIONS:
        return "roboflow"
    if path.suffix.lower() not in _ENDINGS:
        raise DataError(f"{path}: expected a .json, .yaml or .txt file, or a folder")
    return _ENDINGS[path.suffix.lower()]


def read_split(
    root: Path,
    split: str,
    fmt: Format,
    path: Path | None = None,
    images: Path | None = None,
    classes: tuple[str, ...] | None = None,
) -> ImageSet:
    """Read one split of a data set; a folder at `path` that has no splits is read whole.

    Args:
        root: folder of the data set.
        split: name of the split.
        fmt: format of the split.
        path: annotation file, data.yaml, split list or folder, where it is not in its usual place.
        images: folder of the pictures, for COCO JSON.
        classes: class names in order, for Pascal VOC, which has no list of them.

    Raises:
        DataError: something is missing, wrong or contradictory.
    """
    if path is not None and path.is_dir() and fmt != "roboflow":
        if not own_splits(path, fmt) and not (fmt == "voc" and xml_files(path)):
            return read_whole(path, fmt, classes)
        if fmt != "voc":
            root, path = path, None
    if fmt == "coco":
        return read_coco_split(root, split, path, images)
    if fmt == "roboflow":
        return read_roboflow(root, split, path)
    return read_voc(root, split, path, classes) if fmt == "voc" else read_yolo(root, split, path)


def read_whole(root: Path, fmt: Format, classes: tuple[str, ...] | None = None) -> ImageSet:
    """Read all pictures of a data set that has no splits.

    Raises:
        DataError: something is missing, wrong or contradictory.
    """
    if fmt == "coco":
        return read_coco_whole(root)
    if fmt == "roboflow":
        return read_roboflow(root, None)
    return read_voc(root, None, classes=classes) if fmt == "voc" else read_yolo(root, None)
