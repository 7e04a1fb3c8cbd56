"""YOLO: class names and one text file of normalised boxes per picture.

The class names stand in a `data.yaml`, which also names the splits, or in a plain list such as
`classes.txt`, one name per line, beside the pictures or above `images/` and `labels/`.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.data.annotations import RawObject, ReadingNotes, note_other_files
from benchmarks.data.image_set import ImageSet, labeled_image
from benchmarks.data.parts.frames import frames_of
from benchmarks.data.parts.lookup import name_key
from benchmarks.data.parts.text import quoted, read_lines, refuse_no_file
from benchmarks.data.parts.values import number_in
from benchmarks.data.parts.yolo_pictures import CLASS_LISTS, YoloPictures, find_yolo
from export.errors import DataError, counted
from export.pictures.files import files_below, is_file

_WILD = 1.5  # a normalised coordinate beyond this was written in pixels
_LABELS = "the labels of a picture"
_MOVED = "paths of another machine, found below the data set's folder"


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
    found = find_yolo(root, split, path)
    notes = ReadingNotes()
    frames = frames_of(found.pictures, [None] * len(found.pictures))
    labels = _LabelFiles()
    files = [labels.of(picture) for picture in found.pictures]
    if not any(is_file(file) for file in files):
        which = "" if split is None else f" of {split!r}"
        raise DataError(
            f"{found.file}: none of {counted(len(files), 'picture')}{which} has a label file; "
            f"expected for example {files[0]}"
        )
    _note_others(found, files, notes)
    images = []
    for number, (picture, file, frame) in enumerate(
        zip(found.pictures, files, frames, strict=True), 1
    ):
        size = (frame.width, frame.height)
        objects = _read_labels(file, root, found, size, notes)
        images.append(labeled_image(number, picture.name, frame, objects, notes))
    return ImageSet(
        name=split or "all",
        source=f"YOLO {found.file}, {counted(len(images), 'image')}",
        classes=found.classes,
        category_ids=tuple(range(len(found.classes))),
        images=tuple(images),
        paths=tuple(found.pictures),
        notes=notes.sentences(),
        tally=notes.tally(),
        warnings=notes.warnings("cxcywh"),
    )


def _note_others(found: YoloPictures, labels: Sequence[Path], notes: ReadingNotes) -> None:
    """Count the files of whole folders that were not read, and entries read in an unusual way."""
    for entry in found.moved:
        notes.add(_MOVED, entry)
    for picture in found.doubled:
        notes.add("pictures that the split names more than once, read once", picture.name)
    known = set(labels)
    places = dict.fromkeys([*found.folders, *(label_path(f / "x").parent for f in found.folders)])
    seen: set[Path] = set()
    for place in places:
        if not place.is_dir():
            continue
        files = [file for file in files_below(place) if file not in seen]
        seen.update(files)
        if place in found.folders:
            note_other_files(files, notes)
        for file in files:
            is_label = file.suffix.lower() == ".txt" and file.name[0] != "."
            if is_label and file not in known and file.name not in CLASS_LISTS:
                notes.add("text files without a picture, left out", file.name)
    for file, count in Counter(labels).items():
        if count > 1 and is_file(file):
            for _ in range(count - 1):
                notes.add("pictures that share the label file of another", file.name)


class _LabelFiles:
    """Finds the label file of a picture; records the folders that it looked into."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}

    def of(self, picture: Path) -> Path:
        """Return the label file of `picture`: where `label_path` has it, or else beside it.

        In a flat folder somewhere below a folder called `images`, `label_path` leads elsewhere.
        The name may differ in letter case or Unicode form.

        Raises:
            DataError: what stands there is no file, such as a link that leads nowhere.
        """
        usual = label_path(picture)
        for place in (usual, picture.with_suffix(".txt")):
            found = self._in(place.parent).get(place.name) or self._in(place.parent).get(
                name_key(place.name)
            )
            if found is not None:
                refuse_no_file(found, _LABELS)
                return found
        return usual

    def _in(self, folder: Path) -> dict[str, Path]:
        if folder not in self._folders:
            _refuse_lost_folder(folder)
            files = folder.iterdir() if folder.is_dir() else ()
            texts = sorted(f for f in files if f.suffix.lower() == ".txt")
            by_key = {name_key(file.name): file for file in texts}
            self._folders[folder] = by_key | {file.name: file for file in texts}
        return self._folders[folder]


def _refuse_lost_folder(folder: Path) -> None:
    """Refuse a link that leads nowhere, or a file, in place of a folder of label files."""
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        found = "a link that leads nowhere" if there.is_symlink() else "no folder"
        raise DataError(
            f"{there}: {found}, where a folder of label files should be; put the folder there, or "
            "remove the entry"
        )


def label_path(picture: Path) -> Path:
    """Return where YOLO keeps the labels of `picture`: the last `images` folder is `labels`."""
    parts = list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read_labels(
    file: Path, root: Path, found: YoloPictures, size: tuple[int, int], notes: ReadingNotes
) -> list[RawObject]:
    if not is_file(file):
        notes.add("pictures without a label file, taken as empty", file.name)
        return []
    lines = read_lines(file, _LABELS)
    say = partial(quoted, file=file, root=root)
    objects: list[RawObject] = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{file}:{number}"
        notes.written += 1
        label, box = _read_line(fields, where, found, size, say)
        objects.append(RawObject(box, label, where=f"line {number}"))
    if not objects:
        notes.add("pictures with an empty label file", file.name)
    return objects


def _read_line(
    fields: Sequence[str],
    where: str,
    found: YoloPictures,
    size: tuple[int, int],
    say: Callable[[object], str],
) -> tuple[int, tuple[float, float, float, float]]:
    read = [number_in(field) for field in fields]
    values = [value for value in read if value is not None]
    if len(values) < len(read):
        raise DataError(f"{where}: {say(' '.join(fields))}; expected numbers")
    box_only = len(values) == 5 or (found.pose and len(values) > 5)
    polygon = len(values) >= 7 and len(values) % 2 == 1
    if not (box_only or polygon):
        raise DataError(
            f"{where}: {counted(len(values), 'field')}; expected `class x y width height`, or "
            "`class` and "
            "the x y of three or more corners"
        )
    label, numbers = values[0], values[1:5] if box_only else values[1:]
    if not label.is_integer():
        raise DataError(f"{where}: class {say(fields[0])}; expected a whole number")
    if not 0 <= label < len(found.classes):
        last = len(found.classes) - 1
        raise DataError(f"{where}: class {say(int(label))} is not among 0..{last}")
    if not all(-_WILD < value < _WILD for value in numbers):  # also catches NaN
        raise DataError(f"{where}: a coordinate is not in 0..1; YOLO has fractions of the side")
    if box_only:
        x, y, w, h = numbers
        x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        xs, ys = numbers[0::2], numbers[1::2]
        x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    width, height = size
    return int(label), (x1 * width, y1 * height, x2 * width, y2 * height)
