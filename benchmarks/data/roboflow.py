"""Roboflow's COCO export: `train/`, `valid/` and `test/`, each with its own annotation file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.data.coco import split_names
from benchmarks.data.coco_json import load_coco
from benchmarks.data.image_set import ImageSet, coco_image_set
from export.errors import DataError

ANNOTATIONS = "_annotations.coco.json"


def roboflow_splits(root: Path) -> list[str]:
    """Return the names of the splits that the export in `root` comes with."""
    return sorted(file.parent.name for file in root.glob(f"*/{ANNOTATIONS}"))


def read_roboflow(root: Path, split: str | None, path: Path | None = None) -> ImageSet:
    """Read one split of an export.

    The export adds a class of its own, the name of the project, as the `supercategory` of all
    others and without boxes. It is left out.

    Args:
        root: folder of the data set.
        split: name of the split; None for an annotation file directly in `root`.
        path: annotation file, or the folder that holds it.

    Raises:
        DataError: no annotation file, or something wrong in it.
    """
    if path is not None:
        candidates = [path / ANNOTATIONS if path.is_dir() else path]
    elif split is None:
        candidates = [root / ANNOTATIONS]
    else:
        candidates = [root / name / ANNOTATIONS for name in split_names(split)]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise DataError(
            f"{root}: no Roboflow split {split!r}; looked for "
            f"{', '.join(map(str, candidates))}. Folders with annotations there: "
            f"{', '.join(roboflow_splits(root)) or 'none'}"
        )
    document = load_coco(file)
    umbrella = _umbrella_category(document)
    if umbrella is not None:
        document["categories"] = [c for c in document["categories"] if c is not umbrella]
    folders = [file.parent, file.parent / "images"]
    found = coco_image_set(document, file, folders, split or "all")
    source = found.source.replace("COCO JSON", "Roboflow COCO export", 1)
    if umbrella is None:
        return replace(found, source=source)
    note = (
        f"class {umbrella.get('name')!r} (id {umbrella.get('id')}) left out: no boxes, and only "
        "the supercategory of the others, which Roboflow adds to its exports"
    )
    return replace(found, source=source, notes=(*found.notes, note))


def _umbrella_category(document: dict[str, Any]) -> dict[str, Any] | None:
    """Return the class that is only the parent of all others and that no box has, if any."""
    categories = document["categories"]
    used = {str(annotation.get("category_id")) for annotation in document["annotations"]}
    for entry in categories:
        others = [c for c in categories if c is not entry]
        parents = {c.get("supercategory") for c in others}
        if others and parents == {entry.get("name")} and str(entry.get("id")) not in used:
            found: dict[str, Any] = entry
            return found
    return None
