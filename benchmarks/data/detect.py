"""Detect a data set's format from the files in its folder."""

from pathlib import Path
from typing import Literal

from benchmarks.data.coco import annotation_candidates, coco_files, coco_splits
from benchmarks.data.parts.lookup import examples
from benchmarks.data.parts.yolo_pictures import find_class_list, find_data_yaml, yolo_splits
from benchmarks.data.roboflow import ANNOTATIONS, roboflow_splits
from benchmarks.data.voc import plain_splits, voc_homes, voc_splits, xml_files
from export.errors import DataError
from export.pictures.files import pictures_in

Format = Literal["coco", "yolo", "voc", "roboflow"]

_LOOKED_FOR = (
    "COCO (train.json, annotations/instances_train2017.json, annotations/*.json, any one COCO "
    "file), YOLO (data.yaml, or classes.txt with label files), Roboflow "
    "(train/_annotations.coco.json), Pascal VOC (Annotations/ with JPEGImages/, annotations/ with "
    "images/, or XML files beside the pictures)"
)


def detect_format(root: Path) -> Format:
    """Return the format of the data set in `root`.

    Files that name splits are considered first, then those of a set without splits.

    Raises:
        DataError: no such folder, no format fits, or several do.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder; data.root should name the data set's folder")
    if not root.is_dir():
        raise DataError(f"{root}: a file; data.root should name the folder that holds the data set")
    signs = _signs(root) or _signs_without_splits(root)
    if len(signs) == 1:
        return next(iter(signs))
    if signs:
        found = ", ".join(f"{fmt} ({_name(root, sign)})" for fmt, sign in signs.items())
        raise DataError(f"{root}: fits several formats: {found}. Choose one with data.format=...")
    there = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())[:8]
    raise DataError(
        f"{root}: holds {', '.join(there) or 'nothing'}, which fits no known format.{_hint(root)} "
        f"Looked for {_LOOKED_FOR}. Name the files with data.train.path and data.val.path, or "
        "correct data.root."
    )


def own_splits(root: Path, fmt: Format) -> list[str]:
    """Return the names of the splits that the data set in `root` comes with; may be empty."""
    if fmt == "coco":
        return coco_splits(root)
    if fmt == "yolo":
        return yolo_splits(root)
    return voc_splits(root) if fmt == "voc" else roboflow_splits(root)


def _signs(root: Path) -> dict[Format, Path]:
    """Return format -> the file or folder that identifies it, for sets with splits."""
    described = find_data_yaml(root)
    exported = next(iter(sorted(root.glob(f"*/{ANNOTATIONS}"))), None)
    splits = ("train", "val", "test")
    usual = (file for split in splits for file in annotation_candidates(root, split))
    coco = next((file for file in usual if file.is_file()), None)
    coco = coco or next(iter(sorted(root.glob("annotations/*.json"))), None)
    homes = [] if exported else voc_homes(root)
    voc = homes[0].annotations if homes else next(iter(plain_splits(root).values()), None)
    found: dict[Format, Path | None] = {
        "coco": coco,
        "yolo": described,
        "roboflow": exported,
        "voc": voc,
    }
    return {fmt: sign for fmt, sign in found.items() if sign is not None}


def _signs_without_splits(root: Path) -> dict[Format, Path]:
    """Return format -> the file that identifies it, for sets without splits."""
    if (root / ANNOTATIONS).is_file():
        return {"roboflow": root / ANNOTATIONS}
    found: dict[Format, Path | None] = {
        "coco": next(iter(coco_files(root)), None),
        "yolo": find_class_list(root),
        "voc": next(iter(xml_files(root)), None),
    }
    return {fmt: sign for fmt, sign in found.items() if sign is not None}


def _name(root: Path, sign: Path) -> str:
    return sign.relative_to(root).as_posix() or "."


def _hint(root: Path) -> str:
    """Return a hint, if the folder nearly fits a known format."""
    for folder, labels in ((root, root), (root / "images", root / "labels")):
        pictures = {p.stem for p in pictures_in(folder)} if folder.is_dir() else set()
        if pictures & {file.stem for file in labels.glob("*.txt")}:
            return (
                f" {labels} holds text files named like the pictures: if they are "
                "YOLO's, write the class names into classes.txt there, one per line, in the order "
                "of the numbers."
            )
    nested = [child.name for child in sorted(root.iterdir()) if child.is_dir() and _signs(child)]
    if nested:
        return f" A data set lies in {examples(nested)} below it: is that data.root?"
    return ""
