"""Pascal VOC: one XML file per picture."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.data.annotations import RawObject, ReadingNotes, examples
from benchmarks.data.coco import split_names
from benchmarks.data.image_set import ImageSet, labeled_image
from benchmarks.data.pictures import PICTURES
from export.errors import DataError
from export.pictures.images import photograph_size

_DIFFICULT = "objects marked difficult: left out of training, ignored by COCO's rules in evaluation"
_DOCTYPE = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)


class _Annotated(NamedTuple):
    """One XML file as it stands."""

    file: Path
    picture: Path
    size: tuple[int, int] | None  # (width, height), where it is stated
    objects: tuple[tuple[str, tuple[float, float, float, float], bool], ...]


def voc_homes(root: Path) -> list[Path]:
    """Return the folders under `root` that hold `Annotations` and `JPEGImages`."""
    homes = [root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/VOC*"))]
    return [h for h in homes if (h / "Annotations").is_dir() and (h / "JPEGImages").is_dir()]


def plain_splits(root: Path) -> dict[str, Path]:
    """Return split -> folder where XML files lie beside the pictures."""
    folders = (folder for folder in sorted(root.iterdir()) if folder.is_dir())
    return {folder.name: folder for folder in folders if any(folder.glob("*.xml"))}


def read_voc(
    root: Path, split: str, path: Path | None = None, classes: Sequence[str] | None = None
) -> ImageSet:
    """Read one split of a VOC folder; `path` names a split list or a folder of XML and pictures.

    Classes are the sorted names over *all* splits, unless given; category ids count from 1.
    VOC's pixels are 1-based and inclusive: `xmin - 1, ymin - 1, xmax, ymax`. Difficult objects
    become crowd boxes.

    Raises:
        DataError: naming the file that is wrong.
    """
    files, everything = _files(root, split, path)
    if not files:
        raise DataError(f"{root}: the split {split!r} names no picture")
    annotated = [_read_xml(*pair) for pair in files]
    if classes is None:
        read = {entry.file for entry in annotated}
        others = (_read_xml(file, file) for file in everything if file not in read)
        names = {n for entry in (*annotated, *others) for n, _, _ in entry.objects}
        classes = sorted(names)
    if not classes:
        raise DataError(f"{root}: no object in any of the {len(everything)} XML files")
    label_of = {name: label for label, name in enumerate(classes)}
    notes = ReadingNotes()
    images = []
    for number, entry in enumerate(annotated, 1):
        objects = list(_objects(entry, label_of, notes))
        size = entry.size or photograph_size(entry.picture)
        images.append(labeled_image(number, entry.picture.name, size, objects, notes))
    ids = tuple(range(1, len(classes) + 1))
    return ImageSet(
        name=split,
        source=f"Pascal VOC {root}, split {split}, {len(images)} images",
        classes=tuple(classes),
        category_ids=ids,
        images=tuple(images),
        paths=tuple(entry.picture for entry in annotated),
        notes=notes.sentences(),
        dropped=notes.dropped(),
    )


def _objects(
    entry: _Annotated, label_of: dict[str, int], notes: ReadingNotes
) -> Iterator[RawObject]:
    for number, (name, box, difficult) in enumerate(entry.objects):
        if name not in label_of:
            raise DataError(
                f"{entry.file}: object {number + 1} is a {name!r}, which is not among the classes "
                f"{', '.join(label_of)}"
            )
        if difficult:
            notes.add(_DIFFICULT, entry.file.name)
        yield RawObject(box, label_of[name], difficult, where=f"object {number + 1}")


def _files(root: Path, split: str, path: Path | None) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Return the split's (XML, picture) pairs, and the XML files of all splits."""
    if path is not None and path.is_dir():
        return _beside(path), sorted(path.glob("*.xml"))
    homes = voc_homes(root)
    if not homes:
        folders = plain_splits(root)
        name = next((name for name in split_names(split) if name in folders), None)
        if name is None:
            raise DataError(
                f"{root}: no split {split!r}; folders with XML files: "
                f"{', '.join(folders) or 'none'}"
            )
        return _beside(folders[name]), [
            f for d in folders.values() for f in sorted(d.glob("*.xml"))
        ]
    pairs: list[tuple[Path, Path]] = []
    lists = [path] if path is not None else []
    for home in homes:
        sets = home / "ImageSets" / "Main"
        named = (sets / f"{name}.txt" for name in split_names(split))
        file = path or next((f for f in named if f.is_file()), None)
        if file is not None:
            lists.append(file)
            pairs += _listed(file, home, must_exist=path is None)
    if not lists:
        there = sorted({f.stem for h in homes for f in h.glob("ImageSets/Main/*.txt")})
        raise DataError(
            f"{homes[0]}: no ImageSets/Main/{split}.txt; lists there: {examples(there) or 'none'}"
        )
    return pairs, [file for home in homes for file in sorted((home / "Annotations").glob("*.xml"))]


def _listed(file: Path, home: Path, must_exist: bool) -> list[tuple[Path, Path]]:
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as a list of pictures: {error}") from None
    pairs = []
    missing = []
    for stem in (line[0] for line in lines if line):
        xml = home / "Annotations" / f"{stem}.xml"
        picture = _picture(home / "JPEGImages", stem)
        if xml.is_file() and picture is not None:
            pairs.append((xml, picture))
        else:
            missing.append(stem)
    if missing and (must_exist or len(missing) == len(lines)):
        raise DataError(
            f"{file}: {len(missing)} of {len(lines)} entries lack an XML file in Annotations or a "
            f"picture in JPEGImages: {examples(missing)}"
        )
    return pairs


def _beside(folder: Path) -> list[tuple[Path, Path]]:
    pairs = []
    missing = []
    for xml in sorted(folder.glob("*.xml")):
        picture = _picture(folder, xml.stem)
        if picture is None:
            missing.append(xml.name)
        else:
            pairs.append((xml, picture))
    if missing:
        raise DataError(f"{folder}: {len(missing)} XML files lack a picture: {examples(missing)}")
    return pairs


def _picture(folder: Path, stem: str) -> Path | None:
    usual = (folder / f"{stem}{ending}" for ending in (".jpg", ".png", ".jpeg"))
    found = next((file for file in usual if file.is_file()), None)
    if found is None:
        others = (f for f in folder.iterdir() if f.stem == stem and f.suffix.lower() in PICTURES)
        found = next(others, None)
    return found


def _read_xml(file: Path, picture: Path) -> _Annotated:
    try:
        text = file.read_bytes()
        if _DOCTYPE.search(text):
            raise DataError(f"{file}: holds a DOCTYPE, which annotations do not need; remove it")
        root = ElementTree.fromstring(text)
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{file}: cannot be read as XML: {error}") from None
    if root.tag != "annotation":
        raise DataError(f"{file}: not Pascal VOC: root is <{root.tag}>, expected <annotation>")
    size = None
    if root.find("size/width") is not None:
        width, height = (_number(root, f"size/{side}", file) for side in ("width", "height"))
        if width > 0 and height > 0:  # some tools write 0 for "not known"
            size = (int(width), int(height))
    objects = []
    for number, entry in enumerate(root.findall("object"), 1):
        name = (entry.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{file}: object {number} has no name")
        corners = [
            _number(entry, f"bndbox/{edge}", file) for edge in ("xmin", "ymin", "xmax", "ymax")
        ]
        box = (corners[0] - 1, corners[1] - 1, corners[2], corners[3])
        objects.append((name, box, (entry.findtext("difficult") or "0").strip() == "1"))
    return _Annotated(file, picture, size, tuple(objects))


def _number(element: ElementTree.Element, key: str, file: Path) -> float:
    text = element.findtext(key)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{file}: {key} is {text!r}; expected a number")
    return value
