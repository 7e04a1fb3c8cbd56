"""Read a COCO annotation file and check every entry of it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

from benchmarks.data.annotations import RawObject, ReadingNotes
from benchmarks.data.parts.class_names import checked_names
from benchmarks.data.parts.values import MOST, flag, number, whole
from export.artifact.bundle_content import each_key_once
from export.errors import DataError, shown

_LONGEST_PATH = 4096  # characters; no file system has longer ones
_CROWD = ("iscrowd", "is_crowd", "isCrowd", "IsCrowd", "iscrowed", "crowd")  # as tools spell it

Entry = Mapping[str, object]  # one JSON object, not checked yet


class CocoDocument(TypedDict):
    """The three lists of a COCO file; their entries are not checked yet."""

    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]


class ImageEntry(NamedTuple):
    """One picture as the file states it."""

    file_name: str
    size: tuple[int, int] | None  # (width, height), where it is stated


def load_coco(path: Path) -> CocoDocument:
    """Parse a COCO JSON file and check its outline.

    Raises:
        DataError: missing, not JSON, or without lists of images, annotations and categories.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: no regular file; COCO annotations were expected here")
        document = json.loads(path.read_bytes(), object_pairs_hook=each_key_once)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; COCO annotations were expected here") from None
    except RecursionError:
        raise DataError(f"{path}: cannot be read as JSON: nested too deeply") from None
    except (OSError, ValueError) as error:
        # A link may lead to any file; a message of ours may quote it, one of the parser does not.
        own = isinstance(error, OSError | json.JSONDecodeError) or not path.is_symlink()
        said = shown(str(error))[1:-1] if own else "not as COCO has it"
        raise DataError(f"{path}: cannot be read as JSON: {said}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: not COCO: a {type(document).__name__}, expected an object")
    for key in ("images", "annotations", "categories"):
        entries = document.get(key)
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            keys = shown(list(document)[:8])[1:-1] or "nothing"
            found = "something else" if path.is_symlink() else keys
            raise DataError(
                f"{path}: not COCO: `{key}` should be a list of objects; the file holds {found}"
            )
    return cast(CocoDocument, document)


def categories(entries: Sequence[Entry], path: Path) -> dict[int, str]:
    """Return category id -> name, ordered by id."""
    if not entries:
        raise DataError(f"{path}: `categories` is empty; at least one class is needed")
    stated = [entry.get("name") for entry in entries]
    names = checked_names(stated, path, lambda index: f"{path}: categories[{index}]")
    found: dict[int, str] = {}
    for place, (entry, name) in enumerate(zip(entries, names, strict=True)):
        category_id = whole(entry.get("id"))
        if category_id is None:
            raise DataError(
                f"{path}: categories[{place}]: id {shown(entry.get('id'))}; expected a whole number"
            )
        if category_id in found:
            raise DataError(f"{path}: categories[{place}]: id {category_id} is there twice")
        found[category_id] = name
        group = entry.get("supercategory")
        if isinstance(group, list | dict):
            raise DataError(
                f"{path}: categories[{place}]: supercategory {shown(group)}; expected a text"
            )
    return dict(sorted(found.items()))


def image_entries(entries: Sequence[Entry], path: Path) -> dict[int, ImageEntry]:
    """Return image id -> entry, in the file's order."""
    found: dict[int, ImageEntry] = {}
    for place, entry in enumerate(entries):
        image_id, file_name = whole(entry.get("id")), entry.get("file_name")
        if image_id is None or not isinstance(file_name, str) or not file_name:
            raise DataError(
                f"{path}: images[{place}]: id {shown(entry.get('id'))} and file_name "
                f"{shown(file_name)}; expected a whole number and a text"
            )
        if len(file_name) > _LONGEST_PATH or "\0" in file_name:
            raise DataError(
                f"{path}: images[{place}]: file_name {shown(file_name)} of {len(file_name)} "
                "characters names no file"
            )
        if image_id in found:
            raise DataError(
                f"{path}: images[{place}]: id {image_id} is there twice "
                f"({shown(found[image_id].file_name)} and {shown(file_name)}); ids must be unique"
            )
        found[image_id] = ImageEntry(file_name, _stated_size(entry, f"{path}: image {image_id}"))
    return found


def _stated_size(entry: Entry, where: str) -> tuple[int, int] | None:
    sides = entry.get("width"), entry.get("height")
    if None in sides:
        return None
    width, height = (whole(side) for side in sides)
    if width is None or height is None or width <= 0 or height <= 0:
        raise DataError(
            f"{where}: width {shown(sides[0])}, height {shown(sides[1])}; expected whole numbers "
            "of pixels above 0, or neither key"
        )
    return width, height


def annotations(
    entries: Sequence[Entry],
    path: Path,
    label_of: Mapping[int, int],
    image_ids: set[int],
    notes: ReadingNotes,
) -> dict[int, list[RawObject]]:
    """Return image id -> objects, as stated; `label_of` maps category ids to 0..K-1."""
    objects: dict[int, list[RawObject]] = {}
    seen: set[int | str] = set()
    for place, entry in enumerate(entries):
        notes.written += 1
        annotation_id = entry.get("id")
        image_id, category = whole(entry.get("image_id")), whole(entry.get("category_id"))
        where = f"annotation {shown(annotation_id, 30)}"
        head = f"{path}: annotations[{place}] (id {shown(annotation_id, 30)})"
        if isinstance(annotation_id, (int, str)):
            if annotation_id in seen:
                notes.add("annotation ids are there twice, read as ids of two objects", where)
            seen.add(annotation_id)
        if image_id is None or image_id not in image_ids:
            said = shown(entry.get("image_id"))
            raise DataError(f"{head}: image_id {said} is not among the file's images")
        if category is None or category not in label_of:
            said = shown(entry.get("category_id"))
            raise DataError(f"{head}: category_id {said} is not among {shown(sorted(label_of))}")
        crowd, area = _is_crowd(entry, head), entry.get("area")
        if area is not None and not (isinstance(area, int | float) and _is_area(area)):
            raise DataError(f"{head}: area {shown(area)}; expected a number of square pixels")
        if entry.get("ignore") and not crowd:
            notes.add("objects marked `ignore`, which COCO does not know: read as any other", where)
        box = _corners(entry.get("bbox"), head)
        raw = RawObject(box, label_of[category], crowd, None if area is None else area, where)
        objects.setdefault(image_id, []).append(raw)
    return objects


def _corners(box: object, head: str) -> tuple[float, float, float, float]:
    """Return xyxy of a stated [x, y, width, height]."""
    values = [number(value) for value in box] if isinstance(box, list) else []
    x, y, w, h = values if len(values) == 4 else (None, None, None, None)
    if x is None or y is None or w is None or h is None:
        expected = "four numbers [x, y, width, height]"
        if isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box)):
            expected += f" of pixels, each between -{MOST:.0e} and {MOST:.0e}"
        raise DataError(f"{head}: bbox {shown(box)}; expected {expected}")
    return x, y, x + w, y + h


def _is_crowd(entry: Entry, head: str) -> bool:
    said = next((entry[key] for key in _CROWD if key in entry), None)
    crowd = flag(said)
    if crowd is None:
        raise DataError(f"{head}: iscrowd {shown(said)}; expected 0 or 1")
    return crowd


def _is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_area(value: float) -> bool:
    return not isinstance(value, bool) and 0 <= value < 1e18  # false also for NaN
