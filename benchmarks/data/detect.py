"""Tell a data set's format by looking at its folder."""

from pathlib import Path
from typing import Literal

from benchmarks.data.coco import annotation_candidates
from benchmarks.data.roboflow import ANNOTATIONS
from benchmarks.data.voc import plain_splits, voc_homes
from benchmarks.data.yolo import find_data_yaml
from export.errors import DataError

Format = Literal["coco", "yolo", "voc", "roboflow"]

_LOOKED_FOR = (
    "COCO (train.json, annotations/instances_train2017.json, annotations/*.json), "
    "YOLO (data.yaml), Roboflow (train/_annotations.coco.json), "
    "Pascal VOC (Annotations/ with JPEGImages/, or XML files beside the pictures)"
)


def detect_format(root: Path) -> Format:
    """Return the format of the data set in `root`.

    Raises:
        DataError: no such folder, no format fits, or several do.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder; data.root should name the data set's folder")
    if not root.is_dir():
        raise DataError(f"{root}: a file; data.root should name the folder that holds the data set")
    signs = {fmt: sign for fmt, sign in _signs(root).items() if sign is not None}
    if len(signs) == 1:
        return next(iter(signs))
    if signs:
        found = ", ".join(f"{fmt} ({sign})" for fmt, sign in signs.items())
        raise DataError(f"{root}: fits several formats: {found}. Choose one with data.format=...")
    there = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())[:8]
    raise DataError(
        f"{root}: holds {', '.join(there) or 'nothing'}, which fits no known format. Looked for "
        f"{_LOOKED_FOR}. Name the files with data.train.path and data.val.path, or mend data.root."
    )


def _signs(root: Path) -> dict[Format, str | None]:
    """Return, for each format, the file or folder that speaks for it."""
    described = find_data_yaml(root)
    exported = next(iter(sorted(root.glob(f"*/{ANNOTATIONS}"))), None)
    splits = ("train", "val", "test")
    usual = (file for split in splits for file in annotation_candidates(root, split))
    coco = next((file for file in usual if file.is_file()), None)
    coco = coco or next(iter(sorted(root.glob("annotations/*.json"))), None)
    homes = [] if exported else voc_homes(root)
    voc = homes[0] if homes else next(iter(plain_splits(root).values()), None)
    found: dict[Format, Path | None] = {
        "coco": coco,
        "yolo": described,
        "roboflow": exported,
        "voc": voc,
    }
    return {
        fmt: None if sign is None else (sign.relative_to(root).as_posix() or ".")
        for fmt, sign in found.items()
    }
