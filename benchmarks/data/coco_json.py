"""Read a COCO annotation file and check every entry of it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict, TypeGuard, cast

from benchmarks.data.annotations import RawObject, ReadingNotes
from export.errors import DataError

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
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; COCO annotations were expected here") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: not COCO: a {type(document).__name__}, expected an object")
    for key in ("images", "annotations", "categories"):
        entries = document.get(key)
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            found = ", ".join(map(str, list(document)[:8])) or "nothing"
            raise DataError(
                f"{path}: not COCO: `{key}` should be a list of objects; the file holds {found}"
            )
    return cast(CocoDocument, document)


def categories(entries: Sequence[Entry], path: Path) -> dict[int, str]:
    """Return category id -> name, ordered by id."""
    names: dict[int, str] = {}
    for place, entry in enumerate(entries):
        where = f"{path}: categories[{place}]"
        category_id, name = _id_and_text(entry, "name", where)
        if category_id in names:
            raise DataError(f"{where}: id {category_id} is there twice")
        if name in names.values():
            raise DataError(f"{where}: the name {name!r} is there twice")
        names[category_id] = name
    if not names:
        raise DataError(f"{path}: `categories` is empty; at least one class is needed")
    return dict(sorted(names.items()))


def image_entries(entries: Sequence[Entry], path: Path) -> dict[int, ImageEntry]:
    """Return image id -> entry, in the file's order."""
    found: dict[int, ImageEntry] = {}
    for place, entry in enumerate(entries):
        where = f"{path}: images[{place}]"
        image_id, file_name = _id_and_text(entry, "file_name", where)
        if image_id in found:
            raise DataError(
                f"{where}: id {image_id} is there twice "
                f"({found[image_id].file_name} and {file_name}); ids must be unique"
            )
        found[image_id] = ImageEntry(file_name, _stated_size(entry, f"{path}: image {image_id}"))
    return found


def _id_and_text(entry: Entry, key: str, where: str) -> tuple[int, str]:
    """Return the entry's id and its text under `key`."""
    number, text = entry.get("id"), entry.get(key)
    if not _is_whole(number) or not isinstance(text, str) or not text:
        raise DataError(
            f"{where}: id {number!r} and {key} {text!r}; expected a whole number and a text"
        )
    return number, text


def _stated_size(entry: Entry, where: str) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    if width is None or height is None:
        return None
    if not (_is_number(width) and _is_number(height)) or not (_is_side(width) and _is_side(height)):
        raise DataError(f"{where}: width {width!r}, height {height!r}; expected whole pixels")
    return int(width), int(height)


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
        annotation_id, image_id, category = (
            entry.get(key) for key in ("id", "image_id", "category_id")
        )
        where = f"annotation {annotation_id}"
        head = f"{path}: annotations[{place}] (id {annotation_id!r})"
        if isinstance(annotation_id, (int, str)):
            if annotation_id in seen:
                notes.add("annotation ids are there twice; both boxes were kept", where)
            seen.add(annotation_id)
        if not _is_whole(image_id) or image_id not in image_ids:
            raise DataError(f"{head}: image_id {image_id!r} is not among the file's images")
        if not _is_whole(category) or category not in label_of:
            raise DataError(f"{head}: category_id {category!r} is not among {sorted(label_of)}")
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise DataError(f"{head}: bbox {box!r}; expected four numbers [x, y, width, height]")
        crowd, area = entry.get("iscrowd") or 0, entry.get("area")
        if crowd not in (0, 1):
            raise DataError(f"{head}: iscrowd {crowd!r}; expected 0 or 1")
        if area is not None and not (_is_number(area) and area >= 0):
            raise DataError(f"{head}: area {area!r}; expected a number of square pixels")
        x, y, w, h = box
        raw = RawObject((x, y, x + w, y + h), label_of[category], bool(crowd), area, where)
        objects.setdefault(image_id, []).append(raw)
    return objects


def _is_side(value: float) -> bool:
    return value > 0 and int(value) == value


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
