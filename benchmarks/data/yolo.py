"""YOLO: class names and one text file of normalised boxes per picture.

The class names stand in a `data.yaml`, which also names the splits, or in a plain list such as
`classes.txt`, one name per line, beside the pictures or above `images/` and `labels/`.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import yaml

from benchmarks.data.annotations import RawObject, ReadingNotes, examples
from benchmarks.data.coco import split_names
from benchmarks.data.image_set import ImageSet, labeled_image
from benchmarks.data.pictures import pictures_below
from export.errors import DataError
from export.pictures.images import photograph_size

CLASS_LISTS = ("classes.txt", "obj.names", "classes.names", "_darknet.labels")
_SPLITS = ("train", "val", "valid", "validation", "test")
_WILD = 1.5  # a normalised coordinate beyond this was written in pixels


def find_data_yaml(root: Path) -> Path | None:
    """Return the YOLO description in `root`: `data.yaml`, or the one YAML that reads like it."""
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (root / name).is_file():
            return root / name
    for file in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # some other YAML; only one that reads as YOLO's counts
        if isinstance(content, dict) and "names" in content and {"train", "val"} & set(content):
            return file
    return None


def find_class_list(root: Path) -> Path | None:
    """Return the plain list of class names in `root`, or in `labels/`, `images/` or `train/`."""
    folders = (root, root / "labels", root / "images", root / "train")
    places = (folder / name for name in CLASS_LISTS for folder in folders)
    return next((place for place in places if place.is_file()), None)


def yolo_splits(root: Path) -> list[str]:
    """Return the names of the splits that the data set in `root` comes with."""
    description = find_data_yaml(root)
    if description is not None:
        return _named_splits(_load(description))
    below = root / "images" if (root / "images").is_dir() else root
    return [name for name in _SPLITS if (below / name).is_dir()]


class _Description(NamedTuple):
    """What is known of a data set before its label files are read."""

    file: Path  # for messages
    classes: tuple[str, ...]
    pictures: list[Path]
    whole_folders: bool  # all pictures of some folders, so that each label file has its picture
    pose: bool = False  # each box is followed by its key points


def read_yolo(root: Path, split: str | None, path: Path | None = None) -> ImageSet:
    """Read one split of a YOLO folder.

    Segmentation polygons become the boxes around them. A picture whose label file is empty or
    missing is a negative, as Ultralytics has it, and is counted, as are label files without
    a picture. Category ids are YOLO's own, from 0.

    Args:
        root: folder of the data set.
        split: name of the split; None for all pictures of a set that has no splits.
        path: another `data.yaml`.

    Raises:
        DataError: naming the file, and the line where there is one.
    """
    found = _describe(root, split, path)
    notes = ReadingNotes()
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(photograph_size, found.pictures))
    labels = [_label_file(picture) for picture in found.pictures]
    if labels and not any(label.is_file() for label in labels):
        which = "" if split is None else f" of {split!r}"
        raise DataError(
            f"{found.file}: none of the {len(labels)} pictures{which} has a label file; "
            f"expected for example {labels[0]}"
        )
    if found.whole_folders:
        _note_lost_labels(labels, notes)
    images = []
    for number, (picture, label, size) in enumerate(
        zip(found.pictures, labels, sizes, strict=True), 1
    ):
        objects = _read_labels(label, len(found.classes), size, found.pose, notes)
        images.append(labeled_image(number, picture.name, size, objects, notes))
    return ImageSet(
        name=split or "all",
        source=f"YOLO {found.file}, {len(images)} images",
        classes=found.classes,
        category_ids=tuple(range(len(found.classes))),
        images=tuple(images),
        paths=tuple(found.pictures),
        notes=notes.sentences(),
        dropped=notes.dropped(),
    )


def _describe(root: Path, split: str | None, path: Path | None) -> _Description:
    """Find class names and pictures.

    Raises:
        DataError: no description, a wrong one, or no such split.
    """
    file = path or find_data_yaml(root)
    if file is not None:
        content = _load(file)
        classes = _class_names(content, file)
        pose = "kpt_shape" in content
        if split is not None:
            return _Description(file, classes, *_split_pictures(content, file, split), pose)
        return _Description(file, classes, _heap(root), whole_folders=True, pose=pose)
    file = find_class_list(root)
    if file is None:
        raise DataError(
            f"{root}: no data.yaml there, and no list of class names ({', '.join(CLASS_LISTS)})"
        )
    if split is None:
        return _Description(file, _listed_names(file), _heap(root), whole_folders=True)
    below = root / "images" if (root / "images").is_dir() else root
    folders = (below / name for name in split_names(split))
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise DataError(
            f"{below}: no folder {split!r} for this split; split folders there: "
            f"{', '.join(yolo_splits(root)) or 'none'}"
        )
    return _Description(file, _listed_names(file), pictures_below(folder), whole_folders=True)


def _heap(root: Path) -> list[Path]:
    """Return all pictures of a set without splits: those of `images/`, or of the folder itself."""
    folder = root / "images" if (root / "images").is_dir() else root
    pictures = pictures_below(folder)
    if not pictures:
        raise DataError(f"{folder}: no pictures in it; label files need them by the same names")
    return pictures


def _listed_names(file: Path) -> tuple[str, ...]:
    """Read class names, one per line; a line's place is the number in the label files."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as a list of class names: {error}") from None
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    return _checked_names(names, file)


def _note_lost_labels(labels: Sequence[Path], notes: ReadingNotes) -> None:
    """Count the text files beside the label files that belong to no picture."""
    known = set(labels)
    for folder in sorted({label.parent for label in labels}):
        for file in sorted(folder.glob("*.txt")):
            if file not in known and file.name not in CLASS_LISTS and file.name[0] != ".":
                notes.add("text files without a picture, left out", file.name)


def _label_file(picture: Path) -> Path:
    """Return the label file of `picture`: where `label_path` has it, or else beside it.

    In a flat folder somewhere below a folder called `images`, `label_path` leads elsewhere.
    """
    usual, beside = label_path(picture), picture.with_suffix(".txt")
    return beside if beside.is_file() and not usual.is_file() else usual


def label_path(picture: Path) -> Path:
    """Return where YOLO keeps the labels of `picture`: the last `images` folder is `labels`."""
    parts = list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _load(file: Path) -> Mapping[str, object]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; YOLO's data.yaml was expected here") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected keys such as train, val and names")
    return content


def _class_names(content: Mapping[str, object], file: Path) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{file}: names: keys {list(names)[:5]}...; expected 0, 1, 2, ...")
        names = [names[key] for key in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: names: expected a list or a map of class names, found {names!r}")
    classes = _checked_names([str(name) for name in names], file)
    count = content.get("nc", len(classes))
    if count != len(classes):
        raise DataError(f"{file}: nc is {count}, but names holds {len(classes)}")
    return classes


def _checked_names(names: Sequence[str], file: Path) -> tuple[str, ...]:
    """Refuse a list of class names that is empty, has a gap, or holds a name twice."""
    if not names:
        raise DataError(f"{file}: no class names in it; expected one per line")
    if "" in names:
        raise DataError(f"{file}:{names.index('') + 1}: an empty line among the class names")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{file}: names: {', '.join(twice)} is there twice")
    return tuple(names)


def _named_splits(content: Mapping[str, object]) -> list[str]:
    return [name for name in _SPLITS if content.get(name)]


def _split_pictures(
    content: Mapping[str, object], file: Path, split: str
) -> tuple[list[Path], bool]:
    """Return the pictures of a split, and whether they are all those of some folders."""
    key = next((name for name in split_names(split) if content.get(name)), None)
    if key is None:
        keys = _named_splits(content)
        raise DataError(f"{file}: no split {split!r}; it names {', '.join(keys) or 'none'}")
    value = content[key]
    entries = [str(entry) for entry in (value if isinstance(value, list) else [value])]
    bases = _bases(content, file)
    pictures: dict[Path, None] = {}
    whole_folders = True
    for entry in entries:
        place = _resolve(entry, bases)
        if place is None:
            raise DataError(
                f"{file}: {key}: {entry} is not there; looked in {', '.join(map(str, bases))}"
            )
        whole_folders = whole_folders and place.is_dir()
        listed = _from_list(place, bases) if place.is_file() else pictures_below(place)
        pictures.update(dict.fromkeys(listed))
    if not pictures:
        raise DataError(f"{file}: {key}: no pictures in {', '.join(entries)}")
    return list(pictures), whole_folders


def _bases(content: Mapping[str, object], file: Path) -> list[Path]:
    """Return the folders that entries may be relative to; downloads often move from `path`."""
    stated = content.get("path")
    bases = [] if not stated else [file.parent / str(stated), Path(str(stated))]
    return list(dict.fromkeys([*bases, file.parent]))


def _resolve(entry: str, bases: Sequence[Path]) -> Path | None:
    """Find `entry` in `bases`; some exports write `../train` for a folder beside data.yaml."""
    entry = entry.replace("\\", "/")  # lists written on Windows
    spellings = [entry, entry.removeprefix("../")]
    places = [base / spelling for spelling in spellings for base in bases]
    return next((place for place in places if place.exists()), None)


def _from_list(file: Path, bases: Sequence[Path]) -> list[Path]:
    """Read a text file of pictures, one per line."""
    pictures: list[Path] = []
    missing: list[str] = []
    for line in file.read_text(encoding="utf-8-sig").splitlines():
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
        lines = file.read_text(encoding="utf-8-sig").splitlines()
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
