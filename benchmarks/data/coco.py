"""COCO JSON with its usual folder layouts."""

import json
from pathlib import Path

from benchmarks.data.coco_json import load_coco
from benchmarks.data.image_set import ImageSet, coco_image_set, read_coco
from benchmarks.data.parts.lookup import examples
from benchmarks.data.parts.splits import split_names
from export.errors import DataError


def annotation_candidates(root: Path, split: str) -> list[Path]:
    """Return where the annotation file of `split` may lie under `root`, likeliest first."""
    return [
        folder / pattern.format(name)
        for name in split_names(split)
        for folder, pattern in (
            (root, "{}.json"),
            (root / "annotations", "instances_{}2017.json"),
            (root / "annotations", "{}.json"),
            (root / "annotations", "instances_{}.json"),
            (root, "instances_{}.json"),
            (root, "instances_{}2017.json"),
        )
    ]


def coco_splits(root: Path) -> list[str]:
    """Return which of train, val and test have an annotation file in a usual place."""
    return [
        split
        for split in ("train", "val", "test")
        if any(file.is_file() for file in annotation_candidates(root, split))
    ]


def coco_files(root: Path) -> list[Path]:
    """Return the JSON files in `root` and its `annotations/` that hold COCO's three lists."""
    return [file for file in _json_files(root) if _is_coco(file)]


def _json_files(root: Path) -> list[Path]:
    files = [*sorted(root.glob("*.json")), *sorted(root.glob("annotations/*.json"))]
    return [file for file in files if not file.name.startswith(".")]


def _is_coco(file: Path) -> bool:
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False  # some other JSON; only one that reads as COCO counts
    return isinstance(document, dict) and {"images", "annotations", "categories"} <= set(document)


def read_coco_whole(root: Path) -> ImageSet:
    """Read the only annotation file of a set that has no splits.

    Raises:
        DataError: no COCO file there, or more than one.
    """
    files = coco_files(root)
    if len(files) != 1:
        names = [file.relative_to(root).as_posix() for file in files]
        raise DataError(
            f"{root}: {len(files)} COCO files without the name of a split: {examples(names)}. "
            "Name the one to read with data.train.path (and data.val.path)."
        )
    return read_coco_split(root, "all", files[0])


def read_coco_split(
    root: Path, split: str, path: Path | None = None, images: Path | None = None
) -> ImageSet:
    """Read one split of a COCO folder.

    Args:
        root: folder of the data set.
        split: name of the split.
        path: annotation file, where it is not one of the usual ones.
        images: folder of the pictures, where it is not one of the usual ones.

    Raises:
        DataError: no annotation file, or something wrong in it.
    """
    usual = path is None or split == "all"
    if path is None:
        candidates = annotation_candidates(root, split)
        path = next((file for file in candidates if file.is_file()), None)
        if path is None:
            there = sorted(f.relative_to(root).as_posix() for f in root.glob("*.json"))
            there += sorted(f.relative_to(root).as_posix() for f in root.glob("annotations/*.json"))
            raise DataError(
                f"{root}: no COCO annotations for the split {split!r}. Looked for "
                f"{', '.join(c.relative_to(root).as_posix() for c in candidates[:4])}; JSON files "
                f"there: {', '.join(there[:6]) or 'none'}. Name the file with data.<split>.path."
            )
    if images is not None:
        return read_coco(path, images, split)
    beside = path.parent
    folders = [beside, beside / "images", root / "images", root / "data", root]
    for name in (*split_names(split), path.stem):
        folders += [root / f"{name}2017", root / name, root / "images" / name]
        folders += [root / "images" / f"{name}2017"]
    documents = _json_files(root) if usual else []
    return coco_image_set(load_coco(path), path, folders, split, documents)
