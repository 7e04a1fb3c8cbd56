"""Pascal VOC: one XML file per picture."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.data.annotations import RawObject, ReadingNotes, examples
from benchmarks.data.coco import split_names
from benchmarks.data.image_set import ImageSet, labeled_image
from benchmarks.data.pictures import pictures_in
from export.errors import DataError
from export.pictures.images import photograph_size

_DIFFICULT = "objects marked difficult: left out of training, ignored by COCO's rules in evaluation"
_UNLABELLED = "pictures without an XML file, left out: not labelled"
_EMPTY = "pictures whose XML file has no object, taken as empty"
_LOST = "XML files without a picture, left out"
_DOCTYPE = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)

# Folder names in use for the two halves of a set, in lower case.
_XML_FOLDERS = frozenset({"annotations", "annotation", "annots", "xml", "xmls", "labels"})
_PICTURE_FOLDERS = frozenset({"jpegimages", "images", "image", "imgs", "img", "pictures"})
_SPLITS = frozenset({"train", "val", "valid", "validation", "test"})


class VocHome(NamedTuple):
    """Where a VOC set keeps its files; both folders may be the same.

    Attributes:
        annotations: folder of the XML files.
        pictures: folder of the pictures.
        lists: folder of the split lists, `ImageSets/Main`; None if it holds none.
    """

    annotations: Path
    pictures: Path
    lists: Path | None = None


class _Pair(NamedTuple):
    """An XML file and its picture."""

    file: Path
    picture: Path


class _Annotated(NamedTuple):
    """One XML file as it stands."""

    file: Path
    picture: Path
    size: tuple[int, int] | None  # (width, height), where it is stated
    objects: tuple[tuple[str, tuple[float, float, float, float], bool], ...]


def voc_homes(root: Path) -> list[VocHome]:
    """Return where `root` and the VOC folders below it hold XML files apart from the pictures."""
    folders = [root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/VOC*"))]
    found = (_home(folder) for folder in folders if folder.is_dir())
    return [home for home in found if home is not None]


def plain_splits(root: Path) -> dict[str, Path]:
    """Return split -> folder where XML files lie beside the pictures."""
    folders = {folder.name: folder for folder in sorted(root.iterdir()) if folder.is_dir()}
    return {
        name: folder
        for name, folder in folders.items()
        if xml_files(folder) and (name.lower() in _SPLITS or pictures_in(folder))
    }


def voc_splits(root: Path) -> list[str]:
    """Return the names of the splits that the data set in `root` comes with."""
    homes = voc_homes(root)
    if not homes:
        return list(plain_splits(root))
    return sorted({file.stem for home in homes for file in _lists(home)})


def xml_files(folder: Path) -> list[Path]:
    """Return the XML files directly in `folder`, sorted; macOS's `._` files are left out."""
    return sorted(file for file in folder.glob("*.xml") if not file.name.startswith("."))


def read_voc(
    root: Path,
    split: str | None,
    path: Path | None = None,
    classes: Sequence[str] | None = None,
) -> ImageSet:
    """Read one split of a VOC folder.

    VOC's pixels are 1-based and inclusive: `xmin - 1, ymin - 1, xmax, ymax`. Difficult objects
    become crowd boxes. A picture is labelled by its XML file: one without an object makes a
    negative, a picture without a file is left out; both are counted.

    Args:
        root: folder of the data set.
        split: name of the split; None for all pictures of a set that has no splits.
        path: a split list, or a folder with XML files beside the pictures.
        classes: class names that come first, in this order; the others of the split follow. By
            default the sorted names over *all* splits. Category ids count from 1.

    Raises:
        DataError: naming the file that is wrong.
    """
    notes = ReadingNotes()
    files, everything = _files(root, split, path, notes)
    if not files:
        raise DataError(f"{root}: the split {split!r} names no picture")
    annotated = [_read_xml(*pair) for pair in files]
    names = {name for entry in annotated for name, _, _ in entry.objects}
    if not names & set(classes or ()):
        read = {entry.file for entry in annotated}
        others = (_read_xml(file, file) for file in everything if file not in read)
        names |= {name for entry in others for name, _, _ in entry.objects}
        if classes and names and not names & set(classes):
            raise DataError(
                f"data.classes: {root} has no object of {', '.join(classes)}. It has: "
                f"{', '.join(sorted(names))}"
            )
    classes = (*(classes or ()), *sorted(names - set(classes or ())))
    if not names:
        raise DataError(f"{root}: no object in any of the {len(everything)} XML files")
    label_of = {name: label for label, name in enumerate(classes)}
    images = []
    for number, entry in enumerate(annotated, 1):
        objects = list(_objects(entry, label_of, notes))
        if not objects:
            notes.add(_EMPTY, entry.file.name)
        size = entry.size or photograph_size(entry.picture)
        images.append(labeled_image(number, entry.picture.name, size, objects, notes))
    ids = tuple(range(1, len(classes) + 1))
    which = "without splits" if split is None else f"split {split}"
    return ImageSet(
        name=split or "all",
        source=f"Pascal VOC {root}, {which}, {len(images)} images",
        classes=classes,
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
        if difficult:
            notes.add(_DIFFICULT, entry.file.name)
        yield RawObject(box, label_of[name], difficult, where=f"object {number + 1}")


def _home(folder: Path) -> VocHome | None:
    """Return the two folders of a set in `folder`, found by name; None unless both exist."""
    below = {child.name.lower(): child for child in sorted(folder.iterdir()) if child.is_dir()}
    pictures = next((below[name] for name in below if name in _PICTURE_FOLDERS), None)
    marked = [below[name] for name in below if name in _XML_FOLDERS]
    # VOC's own two names suffice, so that an empty set is still recognised.
    own = (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()
    annotations = next((half for half in marked if xml_files(half)), None)
    if own:
        annotations, pictures = folder / "Annotations", folder / "JPEGImages"
    if annotations is None or pictures is None:
        return None
    lists = folder / "ImageSets" / "Main"
    return VocHome(annotations, pictures, lists if any(lists.glob("*.txt")) else None)


def _lists(home: VocHome) -> list[Path]:
    found = [] if home.lists is None else home.lists.glob("*.txt")
    return sorted(file for file in found if not file.name.startswith("."))


def _files(
    root: Path, split: str | None, path: Path | None, notes: ReadingNotes
) -> tuple[list[_Pair], list[Path]]:
    """Return the split's pairs, and the XML files of all splits."""
    if path is not None and path.is_dir():
        return _beside(path), xml_files(path)
    homes = voc_homes(root)
    if split is None:
        heaps = homes or [VocHome(root, root)]
        pairs = [pair for home in heaps for pair in _matched(home, notes)]
        return pairs, [pair.file for pair in pairs]
    if not homes:
        folders = plain_splits(root)
        name = next((name for name in split_names(split) if name in folders), None)
        if name is None:
            raise DataError(
                f"{root}: no split {split!r}; folders with XML files: "
                f"{', '.join(folders) or 'none'}"
            )
        return _beside(folders[name]), [f for d in folders.values() for f in xml_files(d)]
    listed: list[_Pair] = []
    lists = [path] if path is not None else []
    for home in homes:
        own = {file.stem: file for file in _lists(home)}
        file = path or next((own[name] for name in split_names(split) if name in own), None)
        if file is not None:
            lists.append(file)
            listed += _listed(file, home, must_exist=path is None)
    if not lists:
        there = sorted({f.stem for home in homes for f in _lists(home)})
        raise DataError(
            f"{homes[0].annotations.parent}: no ImageSets/Main/{split}.txt; lists there: "
            f"{examples(there) or 'none'}"
        )
    return listed, [file for home in homes for file in xml_files(home.annotations)]


def _listed(file: Path, home: VocHome, must_exist: bool) -> list[_Pair]:
    """Return the pairs that a split list names by their stems."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as a list of pictures: {error}") from None
    stems = [line.split()[0] for line in text.splitlines() if line.split()]
    pictures = _by_stem(home.pictures)
    pairs = []
    missing = []
    for stem in stems:
        xml = home.annotations / f"{stem}.xml"
        if xml.is_file() and stem in pictures:
            pairs.append(_Pair(xml, pictures[stem]))
        else:
            missing.append(stem)
    if missing and (must_exist or len(missing) == len(stems)):
        raise DataError(
            f"{file}: {len(missing)} of {len(stems)} entries lack an XML file in "
            f"{home.annotations.name} or a picture in {home.pictures.name}: {examples(missing)}"
        )
    return pairs


def _beside(folder: Path) -> list[_Pair]:
    """Return the pairs of one folder, of which every XML file needs its picture."""
    pictures, files = _by_stem(folder), xml_files(folder)
    missing = [file.name for file in files if file.stem not in pictures]
    if missing:
        raise DataError(f"{folder}: {len(missing)} XML files lack a picture: {examples(missing)}")
    return [_Pair(file, pictures[file.stem]) for file in files]


def _matched(home: VocHome, notes: ReadingNotes) -> list[_Pair]:
    """Return the pairs of a set without splits; what has no other half is left out and counted."""
    pictures = _by_stem(home.pictures)
    files = {file.stem: file for file in xml_files(home.annotations)}
    if not files.keys() & pictures.keys():
        raise DataError(
            f"{home.annotations}: none of its {len(files)} XML files ({examples(list(files))}) has "
            f"a picture of the same name among the {len(pictures)} in {home.pictures} "
            f"({examples(list(pictures))})"
        )
    for stem, picture in pictures.items():
        if stem not in files:
            notes.add(_UNLABELLED, picture.name)
    for stem, file in files.items():
        if stem not in pictures:
            notes.add(_LOST, file.name)
    return [_Pair(file, pictures[stem]) for stem, file in files.items() if stem in pictures]


def _by_stem(folder: Path) -> Mapping[str, Path]:
    """Return name without ending -> picture; of two, the JPEG, then the PNG."""
    usual = (".jpg", ".png", ".jpeg")
    found: dict[str, Path] = {}
    for file in sorted(
        pictures_in(folder),
        key=lambda file: usual.index(file.suffix) if file.suffix in usual else len(usual),
    ):
        found.setdefault(file.stem, file)
    return dict(sorted(found.items()))


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
