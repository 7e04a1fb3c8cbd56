"""COCO JSON with its usual folder layouts."""

from pathlib import Path

from benchmarks.data.coco_json import load_coco
from benchmarks.data.image_set import ImageSet, coco_image_set, read_coco
from export.errors import DataError

_ALIASES = {"val": ("val", "valid", "validation"), "valid": ("valid", "val", "validation")}


def split_names(split: str) -> tuple[str, ...]:
    """Return the names under which a split is also known: "val" is often "valid"."""
    return _ALIASES.get(split, (split,))


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


def read_coco_split(
    root: Path, split: str, path: Path | None = None, images: Path | None = None
) -> ImageSet:
    """Read one split of a COCO folder.

    Args:
        root: of the data set.
        split: its name.
        path: the annotation file, where it is not one of the usual ones.
        images: the folder of the pictures, likewise.

    Raises:
        DataError: no annotation file, or something wrong in it.
    """
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
    folders = [beside, beside / "images", root / "images", root]
    for name in (*split_names(split), path.stem):
        folders += [root / f"{name}2017", root / name, root / "images" / name]
        folders += [root / "images" / f"{name}2017"]
    return coco_image_set(load_coco(path), path, folders, split)
