"""Pascal VOC: one XML file per picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.data.annotations import RawObject, ReadingNotes, note_other_files
from benchmarks.data.image_set import ImageSet, labeled_image
from benchmarks.data.parts.frames import frames_of
from benchmarks.data.parts.lookup import FilesByStem, examples, name_key
from benchmarks.data.parts.splits import SPLITS, split_names
from benchmarks.data.parts.text import lies_within, read_lines
from benchmarks.data.parts.voc_xml import VocObject, read_xml
from export.errors import DataError, counted, shown
from export.pictures.files import SUFFIXES, pictures_in

_DIFFICULT = "objects marked difficult: left out of training, ignored by COCO's rules in evaluation"
_UNLABELLED = "pictures without an XML file, left out: not labelled"
_EMPTY = "pictures whose XML file has no object, taken as empty"
_UNNAMED = "pictures with an XML file that no split list names, left out"
_LOST = "XML files without a picture, left out"
_SAME_STEM = "pictures with the name of another but for the ending, left out"
_UNLISTED = "entries of the split list without an XML file or a picture, left out"

_FLAGS = frozenset({"-1", "0", "1"})  # beside the stems in the list of one class

# Folder names in use for the two halves of a set, in lower case.
_XML_FOLDERS = frozenset({"annotations", "annotation", "annots", "xml", "xmls", "labels"})
_PICTURE_FOLDERS = frozenset({"jpegimages", "images", "image", "imgs", "img", "pictures"})


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
    objects: tuple[VocObject, ...]


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
        if xml_files(folder) and (name.lower() in SPLITS or pictures_in(folder))
    }


def voc_splits(root: Path) -> list[str]:
    """Return the names of the splits that the data set in `root` comes with."""
    homes = voc_homes(root)
    if not homes:
        return list(plain_splits(root))
    return sorted({file.stem for home in homes for file in _lists(home)})


def xml_files(folder: Path) -> list[Path]:
    """Return the XML files directly in `folder`, sorted; macOS's `._` files are left out."""
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(f for f in files if f.suffix.lower() == ".xml" and not f.name.startswith("."))


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
    annotated = [_annotated(*pair) for pair in files]
    names = {thing.name for entry in annotated for thing in entry.objects}
    if not names & set(classes or ()):
        read = {entry.file for entry in annotated}
        others = (read_xml(file) for file in everything if file not in read)
        names |= {thing.name for _, objects in others for thing in objects}
        if classes and names and not names & set(classes):
            raise DataError(
                f"data.classes: {root} has no object of {', '.join(classes)}. It has: "
                f"{', '.join(sorted(names))}"
            )
    classes = (*(classes or ()), *sorted(names - set(classes or ())))
    if not names:
        raise DataError(f"{root}: no object in any of the {len(everything)} XML files")
    label_of = {name: label for label, name in enumerate(classes)}
    frames = frames_of([entry.picture for entry in annotated], [e.size for e in annotated])
    images = []
    for number, (entry, frame) in enumerate(zip(annotated, frames, strict=True), 1):
        objects = list(_objects(entry, label_of, notes))
        if not objects:
            notes.add(_EMPTY, entry.file.name)
        images.append(labeled_image(number, entry.picture.name, frame, objects, notes))
    ids = tuple(range(1, len(classes) + 1))
    which = "without splits" if split is None else f"split {split}"
    return ImageSet(
        name=split or "all",
        source=f"Pascal VOC {root}, {which}, {counted(len(images), 'image')}",
        classes=classes,
        category_ids=ids,
        images=tuple(images),
        paths=tuple(entry.picture for entry in annotated),
        notes=notes.sentences(),
        tally=notes.tally(),
        warnings=notes.warnings("xyxy"),
    )


def _objects(
    entry: _Annotated, label_of: dict[str, int], notes: ReadingNotes
) -> Iterator[RawObject]:
    for number, thing in enumerate(entry.objects, 1):
        notes.written += 1
        if thing.difficult:
            notes.add(_DIFFICULT, entry.file.name)
        yield RawObject(thing.box, label_of[thing.name], thing.difficult, where=f"object {number}")


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
        return _beside(path, notes), xml_files(path)
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
        return _beside(folders[name], notes), [f for d in folders.values() for f in xml_files(d)]
    listed: list[_Pair] = []
    lists = [path] if path is not None else []
    for home in homes:
        own = {file.stem: file for file in _lists(home)}
        file = path or next((own[name] for name in split_names(split) if name in own), None)
        if file is not None:
            lists.append(file)
            listed += _listed(file, root, home, path is None, notes)
    if not lists:
        there = sorted({f.stem for home in homes for f in _lists(home)})
        raise DataError(
            f"{homes[0].annotations.parent}: no ImageSets/Main/{split}.txt; lists there: "
            f"{examples(there) or 'none'}"
        )
    if path is None:
        for home in homes:
            _note_unnamed(home, notes)
    return listed, [file for home in homes for file in xml_files(home.annotations)]


def _note_unnamed(home: VocHome, notes: ReadingNotes) -> None:
    """Count the pictures that no split list names; says nothing where a list cannot be read."""
    lines: set[str] = set()
    named: set[str] = set()
    try:
        for file in _lists(home):
            for text in read_lines(file, "a list of pictures"):
                line = text.strip().replace("\\", "/")
                head, _, last = line.rpartition(" ")
                named.add(name_key(line))
                lines.add(head.strip() if head and last in _FLAGS else line)
    except DataError:
        return  # it belongs to another split, where it is refused
    named.update(name_key(stem) for line in lines for stem in _stems_of(line))
    files = FilesByStem(xml_files(home.annotations))
    for stem, picture in _by_stem(home.pictures).exact.items():
        if name_key(stem) not in named:
            notes.add(_UNNAMED if files.get(stem) else _UNLABELLED, picture.name)


def _listed(
    file: Path, root: Path, home: VocHome, must_exist: bool, notes: ReadingNotes
) -> list[_Pair]:
    """Return the pairs that a split list names by their stems.

    A list that is a link out of the data set, and so may be any file, is not quoted.
    """
    quotes = lies_within(file, root)
    lines = [line.strip().replace("\\", "/") for line in read_lines(file, "a list of pictures")]
    pictures, files = _by_stem(home.pictures), FilesByStem(xml_files(home.annotations))
    pairs: dict[_Pair, None] = {}
    missing = []
    stems = {number: line for number, line in enumerate(lines, 1) if line}
    for number, stem in stems.items():
        found = ((files.get(key), pictures.get(key)) for key in _stems_of(stem))
        pair = next((_Pair(xml, own) for xml, own in found if xml and own), None)
        if pair is None:
            missing.append(shown(stem)[1:-1] if quotes else f"line {number}")
        else:
            pairs[pair] = None
    if missing and (must_exist or len(missing) == len(stems)):
        raise DataError(
            f"{file}: {len(missing)} of {counted(len(stems), 'entry lacks', 'entries lack')} an "
            f"XML file in {home.annotations.name} or a picture in {home.pictures.name}: "
            f"{examples(missing)}"
        )
    for stem in missing:
        notes.add(_UNLISTED, stem)
    for _ in range(len(stems) - len(missing) - len(pairs)):
        notes.add("entries that the split list has twice, read once", file.name)
    return list(pairs)


def _stems_of(line: str) -> Iterator[str]:
    """Yield the stems that a line of a split list may name, likeliest first.

    Lists hold stems, file names or paths; those of one class have a flag after each.
    """
    head, _, last = line.rpartition(" ")
    flagged = [head.strip()] if head and last in _FLAGS else []
    for name in (line, *flagged):
        bare = name.rsplit("/", 1)[-1]
        yield from (name, bare)
        if Path(bare).suffix.lower() in {*SUFFIXES, ".xml"}:
            yield Path(bare).stem


def _beside(folder: Path, notes: ReadingNotes) -> list[_Pair]:
    """Return the pairs of one folder, of which every XML file needs its picture."""
    pictures, files = _by_stem(folder, notes), xml_files(folder)
    missing = [file.name for file in files if pictures.get(file.stem) is None]
    if missing:
        raise DataError(f"{folder}: {len(missing)} XML files lack a picture: {examples(missing)}")
    return _paired(files, pictures, notes)


def _matched(home: VocHome, notes: ReadingNotes) -> list[_Pair]:
    """Return the pairs of a set without splits; what has no other half is left out and counted."""
    pictures, files = _by_stem(home.pictures, notes), xml_files(home.annotations)
    pairs = _paired(files, pictures, notes)
    if not pairs:
        raise DataError(
            f"{home.annotations}: none of its {len(files)} XML files "
            f"({examples([file.stem for file in files])}) has a picture of the same name among "
            f"the {len(pictures)} in {home.pictures} ({examples(list(pictures.exact))})"
        )
    return pairs


def _paired(files: Sequence[Path], pictures: FilesByStem, notes: ReadingNotes) -> list[_Pair]:
    """Return the pairs; count what has no other half."""
    pairs, lost = [], []
    for file in files:
        picture = pictures.get(file.stem)
        if picture is None:
            lost.append(file.name)
        else:
            pairs.append(_Pair(file, picture))
    used = {pair.picture for pair in pairs}
    for picture in pictures.exact.values():
        if picture not in used:
            notes.add(_UNLABELLED, picture.name)
    for name in lost:
        notes.add(_LOST, name)
    return pairs


def _by_stem(folder: Path, notes: ReadingNotes | None = None) -> FilesByStem:
    """Return the pictures of a folder by stem; of two, the JPEG, then the PNG."""
    usual = (".jpg", ".png", ".jpeg")
    found = FilesByStem(
        sorted(
            pictures_in(folder),
            key=lambda file: usual.index(file.suffix) if file.suffix in usual else len(usual),
        )
    )
    if notes is not None:
        note_other_files(sorted(f for f in folder.iterdir() if not f.is_dir()), notes)
        for file in found.doubled:
            notes.add(_SAME_STEM, file.name)
    return found


def _annotated(file: Path, picture: Path) -> _Annotated:
    size, objects = read_xml(file)
    return _Annotated(file, picture, size, objects)
