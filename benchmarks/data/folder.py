"""Read a data set from its folder, whatever its format."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from benchmarks.data.coco import read_coco_split, read_coco_whole
from benchmarks.data.detect import Format, detect_format, own_splits
from benchmarks.data.division import picture_hashes, read_division, relative_file
from benchmarks.data.image_set import ImageSet, read_coco
from benchmarks.data.parts.lookup import examples
from benchmarks.data.parts.splits import split_names
from benchmarks.data.roboflow import ANNOTATIONS, read_roboflow
from benchmarks.data.voc import read_voc, xml_files
from benchmarks.data.yolo import read_yolo
from export.errors import DataError, counted, shown

_ENDINGS: dict[str, Format] = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".txt": "voc"}


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """Turn what the file system refuses, such as a name that is too long, into a `DataError`."""
    try:
        yield
    except OSError as error:
        file = root if error.filename is None else error.filename
        said = shown(str(file), 200)[1:-1]
        raise DataError(f"{said}: {error.strerror or error}") from None


def format_of(root: Path, path: Path | None, wanted: Format | Literal["auto"]) -> Format:
    """Return the format of one split: as given, or detected from its path or the set's folder.

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
        classes: class names that come first, for Pascal VOC, which has no list of them.

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


def read_measured(
    data: Path, split: str = "val", images: Path | None = None, division: Path | None = None
) -> ImageSet:
    """Read the pictures that a model is measured on.

    Args:
        data: COCO annotations, or the folder of a data set of any known format.
        split: name of the split in a folder; `all` for every picture of a set without splits.
        images: folder of the pictures, for COCO annotations.
        division: `split.json` of the run that divided the folder; `split` is then a side of it.

    Raises:
        DataError: something is missing, wrong or contradictory.
    """
    with reading(data):
        return _read_measured(data, split, images, division)


def _read_measured(data: Path, split: str, images: Path | None, division: Path | None) -> ImageSet:
    if not data.is_dir():
        if division is not None:
            raise DataError(f"{data}: a file; {division} divides the folder of a data set")
        return read_coco(data, images)
    fmt = detect_format(data)
    names = own_splits(data, fmt)
    if division is not None:
        pool = read_split(data, "train", fmt, images=images) if names else read_whole(data, fmt)
        return _side(pool, data, split, division)
    if names or split != "all":
        _require_splits(data, names)
        return read_split(data, split, fmt, images=images)
    return read_whole(data, fmt)


def _require_splits(data: Path, names: list[str]) -> None:
    if not names:
        raise DataError(
            f"{data}: has no splits of its own. Measure on what a run held out with --division "
            "RUN/split.json, or on every picture with --split all"
        )


def _side(pool: ImageSet, root: Path, side: str, division: Path) -> ImageSet:
    """Return the pictures that a run put on one side, by file and content.

    Raises:
        DataError: the run had no such side, or its pictures are not here as they were.
    """
    written = read_division(division)
    wanted = {file: sha256 for file, (own, sha256) in written.items() if own in split_names(side)}
    if not wanted:
        there = ", ".join(sorted({own for own, _ in written.values()}))
        raise DataError(f"{division}: no picture on the side {side!r}; it has {there}")
    place = {relative_file(path, root): index for index, path in enumerate(pool.paths)}
    part = pool.subset([place[file] for file in sorted(wanted) if file in place])
    found = {
        relative_file(path, root): sha
        for path, sha in zip(part.paths, picture_hashes(part), strict=True)
    }
    changed = [file for file, sha256 in sorted(wanted.items()) if found.get(file) != sha256]
    if changed:
        raise DataError(
            f"{root}: {len(changed)} of {counted(len(wanted), 'picture')} on the side {side!r} of "
            f"{division} missing or changed: {examples(changed)}"
        )
    return replace(part, name=side)
