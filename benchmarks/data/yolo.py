"""YOLO: a `data.yaml` and one text file of normalised boxes beside each picture."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from benchmarks.data.annotations import RawObject, ReadingNotes, examples
from benchmarks.data.coco import split_names
from benchmarks.data.image_set import ImageSet, labeled_image
from benchmarks.data.pictures import pictures_below
from export.errors import DataError
from export.pictures.images import photograph_size

_WILD = 1.5  # a normalised coordinate beyond this was written in pixels


def find_data_yaml(root: Path) -> Path | None:
    """Return the YOLO description in `root`: `data.yaml`, or the one YAML that reads like it."""
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (root / name).is_file():
            return root / name
    for file in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # some other YAML; only one that reads as YOLO's counts
        if isinstance(content, dict) and "names" in content and {"train", "val"} & set(content):
            return file
    return None


def read_yolo(root: Path, split: str, path: Path | None = None) -> ImageSet:
    """Read one split of a YOLO folder; `path` names another `data.yaml`.

    Segmentation polygons become the boxes around them. A picture whose label file is empty or
    missing is a negative, and counted. Category ids are YOLO's own, from 0.

    Raises:
        DataError: naming the file, and the line where there is one.
    """
    description = path or find_data_yaml(root)
    if description is None:
        raise DataError(f"{root}: no data.yaml there; expected YOLO's description of the data set")
    content = _load(description)
    classes = _class_names(content, description)
    pictures = _split_pictures(content, description, split)
    notes = ReadingNotes()
    pose = "kpt_shape" in content  # then each box is followed by its key points
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(photograph_size, pictures))
    labels = [label_path(picture) for picture in pictures]
    if pictures and not any(label.is_file() for label in labels):
        raise DataError(
            f"{description}: none of the {len(labels)} pictures of {split!r} has a label file; "
            f"expected for example {labels[0]}"
        )
    images = []
    for number, (picture, label, size) in enumerate(zip(pictures, labels, sizes, strict=True), 1):
        objects = _read_labels(label, len(classes), size, pose, notes)
        images.append(labeled_image(number, picture.name, size, objects, notes))
    ids = tuple(range(len(classes)))
    return ImageSet(
        name=split,
        source=f"YOLO {description}, {len(images)} images",
        classes=classes,
        category_ids=ids,
        images=tuple(images),
        paths=tuple(pictures),
        notes=notes.sentences(),
        dropped=notes.dropped(),
    )


def label_path(picture: Path) -> Path:
    """Return where YOLO keeps the labels of `picture`: the last `images` folder is `labels`."""
    parts = list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _load(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; YOLO's data.yaml was expected here") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected keys such as train, val and names")
    return content


def _class_names(content: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{file}: names: keys {list(names)[:5]}...; expected 0, 1, 2, ...")
        names = [names[key] for key in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: names: expected a list or a map of class names, found {names!r}")
    classes = tuple(str(name) for name in names)
    if len(set(classes)) < len(classes):
        twice = sorted({name for name in classes if classes.count(name) > 1})
        raise DataError(f"{file}: names: {', '.join(twice)} is there twice")
    count = content.get("nc", len(classes))
    if count != len(classes):
        raise DataError(f"{file}: nc is {count}, but names holds {len(classes)}")
    return classes


def _split_pictures(content: Mapping[str, Any], file: Path, split: str) -> list[Path]:
    key = next((name for name in split_names(split) if content.get(name)), None)
    if key is None:
        keys = [k for k, v in content.items() if v and k in ("train", "val", "valid", "test")]
        raise DataError(f"{file}: no split {split!r}; it names {', '.join(keys) or 'none'}")
    entries = content[key] if isinstance(content[key], list) else [content[key]]
    bases = _bases(content, file)
    pictures: dict[Path, None] = {}
    for entry in entries:
        place = _resolve(str(entry), bases)
        if place is None:
            raise DataError(
                f"{file}: {key}: {entry} is not there; looked in {', '.join(map(str, bases))}"
            )
        listed = _from_list(place, bases) if place.is_file() else pictures_below(place)
        pictures.update(dict.fromkeys(listed))
    if not pictures:
        raise DataError(f"{file}: {key}: no pictures in {', '.join(map(str, entries))}")
    return list(pictures)


def _bases(content: Mapping[str, Any], file: Path) -> list[Path]:
    """Return the folders that entries may be relative to; downloads often move from `path`."""
    stated = content.get("path")
    bases = [] if not stated else [file.parent / str(stated), Path(str(stated))]
    return list(dict.fromkeys([*bases, file.parent]))


def _resolve(entry: str, bases: Sequence[Path]) -> Path | None:
    """Find `entry` in `bases`; some exports write `../train` for a folder beside data.yaml."""
    spellings = [entry, entry.removeprefix("../")]
    places = [base / spelling for spelling in spellings for base in bases]
    return next((place for place in places if place.exists()), None)


def _from_list(file: Path, bases: Sequence[Path]) -> list[Path]:
    """Read a text file of pictures, one per line."""
    pictures: list[Path] = []
    missing: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip():
            place = _resolve(line.strip(), [file.parent, *bases])
            if place is None or not place.is_file():
                missing.append(line.strip())
            else:
                pictures.append(place)
    if missing:
        raise DataError(f"{file}: {len(missing)} pictures are not there: {examples(missing)}")
    return pictures


def _read_labels(
    file: Path, num_classes: int, size: tuple[int, int], pose: bool, notes: ReadingNotes
) -> list[RawObject]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        notes.add("pictures without a label file, taken as empty", file.name)
        return []
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as text: {error}") from None
    objects: dict[tuple[object, ...], RawObject] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{file}:{number}"
        label, box = _read_line(fields, where, num_classes, size, pose)
        if (label, box) in objects:
            notes.add("boxes dropped: the same line twice", f"{file.name}:{number}")
        else:
            objects[label, box] = RawObject(box, label, where=f"line {number}")
    if not objects:
        notes.add("pictures with an empty label file", file.name)
    return list(objects.values())


def _read_line(
    fields: Sequence[str], where: str, num_classes: int, size: tuple[int, int], pose: bool
) -> tuple[int, tuple[float, float, float, float]]:
    try:
        values = [float(field) for field in fields]
    except ValueError:
        raise DataError(f"{where}: {' '.join(fields)[:60]!r}; expected numbers") from None
    box_only = len(values) == 5 or (pose and len(values) > 5)
    polygon = len(values) >= 7 and len(values) % 2 == 1
    if not (box_only or polygon):
        raise DataError(
            f"{where}: {len(values)} fields; expected `class x y width height`, or `class` and "
            "the x y of three or more corners"
        )
    label, numbers = values[0], values[1:5] if box_only else values[1:]
    if label != int(label) if math.isfinite(label) else True:
        raise DataError(f"{where}: class {fields[0]}; expected a whole number")
    if not 0 <= label < num_classes:
        raise DataError(f"{where}: class {int(label)} is not among 0..{num_classes - 1}")
    if not all(-_WILD < value < _WILD for value in numbers):  # also catches NaN
        raise DataError(f"{where}: a coordinate is not in 0..1; YOLO wants fractions of the side")
    if box_only:
        x, y, w, h = numbers
        x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        xs, ys = numbers[0::2], numbers[1::2]
        x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    width, height = size
    return int(label), (x1 * width, y1 * height, x2 * width, y2 * height)
