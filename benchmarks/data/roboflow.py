"""Roboflow's COCO export: `train/`, `valid/` and `test/`, each with its own annotation file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.data.coco_json import CocoDocument, Entry, load_coco
from benchmarks.data.image_set import ImageSet, coco_image_set
from benchmarks.data.parts.splits import split_names
from benchmarks.data.parts.values import whole
from export.errors import DataError, shown

ANNOTATIONS = "_annotations.coco.json"


def roboflow_splits(root: Path) -> list[str]:
    """Return the names of the splits that the export in `root` comes with."""
    return sorted(file.parent.name for file in root.glob(f"*/{ANNOTATIONS}"))


def read_roboflow(root: Path, split: str | None, path: Path | None = None) -> ImageSet:
    """Read one split of an export.

    The export adds a class for each group, such as the name of the project: the `supercategory`
    of other classes, without a box in any split. Group classes are left out.

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
    documents = {f: load_coco(f) for f in {file, *root.glob(f"*/{ANNOTATIONS}")}}
    document = documents[file]
    groups = _group_classes(document, list(documents.values()))
    if groups:
        rest = [entry for entry in document["categories"] if entry not in groups]
        document = {**document, "categories": rest}
    folders = [file.parent, file.parent / "images"]
    found = coco_image_set(document, file, folders, split or "all")
    source = found.source.replace("COCO JSON", "Roboflow COCO export", 1)
    notes = [
        f"class {shown(entry.get('name'))} (id {shown(entry.get('id'))}) left out: no "
        "boxes, and only the supercategory of others, which Roboflow adds to its exports"
        for entry in groups
    ]
    return replace(found, source=source, notes=(*found.notes, *notes))


def _group_classes(document: CocoDocument, splits: Sequence[CocoDocument]) -> list[Entry]:
    """Return the classes that are the parent of another and that no box of any split has."""
    used = {whole(entry.get("category_id")) for split in splits for entry in split["annotations"]}
    entries = document["categories"]
    return [
        entry
        for entry in entries
        if whole(entry.get("id")) not in used
        and entry.get("name") in [c.get("supercategory") for c in entries if c is not entry]
    ]
