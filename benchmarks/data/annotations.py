"""Shared by all annotation readers: box checks, and counts of what is corrected or left out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.parts.box_format import Form, format_warning
from benchmarks.data.parts.lookup import examples, file_names, name_key
from export.errors import counted
from export.pictures.files import SUFFIXES, is_file, is_picture_name

_EXAMPLES = 3  # how many offenders a note names
_CLIP_TOLERANCE = 1.0  # pixels; smaller excursions are rounding, corrected without a note
_DROPPED = "boxes dropped: "
_CLIPPED = "boxes clipped to the picture"
_SAME = "the same box and class twice in a picture"
_LEFT_OUT = ", left out"  # every phrase that counts files left out has it
TURNED = "photographs are stored turned; the boxes are turned upright"
SEVERAL = "pictures with more than one frame, of which only the first is read"
UNDECIDED = (
    "photographs are stored turned, and nothing states whether the boxes are: taken as drawn on "
    "the upright picture"
)
# Words that begin a note, up to its first comma, colon or semicolon, and those of a single case.
_HEAD = re.compile(r"[^,:;]+")
_SINGULAR = {
    **{"boxes": "box", "entries": "entry", "pictures": "picture", "photographs": "photograph"},
    **{"files": "file", "links": "link", "objects": "object", "paths": "path"},
    **{"ids": "id", "are": "is", "have": "has", "lead": "leads", "share": "shares", "their": "its"},
}
# Files beside pictures that are no data: of operating systems and of other programs' caches.
_SYSTEM = frozenset({".DS_Store", "Thumbs.db", "desktop.ini", ".gitkeep", ".gitignore"})
# Endings of annotations and descriptions; readers count those that belong to no picture.
_ANNOTATIONS = frozenset({".txt", ".xml", ".json", ".yaml", ".yml", ".names", ".labels", ".cache"})


class RawObject(NamedTuple):
    """One annotation before it is checked against its picture."""

    box: tuple[float, float, float, float]  # xyxy, pixels
    label: int  # 0..K-1
    crowd: bool = False
    area: float | None = None  # None: the box's own
    where: str = ""  # for messages: "annotation 17"


@dataclass(frozen=True)
class Tally:
    """What a split's files hold, and what became of it; `kept` and `dropped` make up `written`.

    Attributes:
        written: objects that the annotation files hold.
        kept: boxes that were read, crowd boxes included.
        dropped: objects left out, reason -> count.
        clipped: boxes of `kept` that reached out of their picture.
        left_out: files and entries left out, reason -> count.
    """

    written: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    clipped: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)

    def line(self) -> str:
        """Return the counts in one line; empty where all objects were kept as they are."""
        parts = [f"{count} {reason}" for reason, count in self.dropped.items()]
        if not parts:
            return ""
        return (
            f"{counted(self.written, 'object')} written, {self.kept} kept, "
            f"{sum(self.dropped.values())} left out: {', '.join(parts)}"
        )


@dataclass
class ReadingNotes:
    """Counts of what a reader corrects or drops, with the first examples of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    written: int = 0  # objects that the files hold, counted while they are parsed
    kept: int = 0
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)  # xyxy, as stated
    sizes: list[tuple[int, int]] = field(default_factory=list)  # of the picture of each box

    def add(self, what: str, example: str) -> None:
        """Count one case of `what`, a plural phrase such as `boxes dropped: no area`."""
        self.counts[what] = self.counts.get(what, 0) + 1
        kept = self.examples.setdefault(what, [])
        if len(kept) < _EXAMPLES:
            kept.append(example)

    def sentences(self) -> tuple[str, ...]:
        """Return one sentence per kind."""
        return tuple(
            f"{_phrase(count, what)} ({examples(self.examples[what])}"
            f"{', ...' if count > len(self.examples[what]) else ''})"
            for what, count in self.counts.items()
        )

    def dropped(self) -> dict[str, int]:
        """Return the boxes left out, reason -> count."""
        return {
            w.removeprefix(_DROPPED): n for w, n in self.counts.items() if w.startswith(_DROPPED)
        }

    def tally(self) -> Tally:
        """Return the counts of a whole split."""
        others = {w: n for w, n in self.counts.items() if not w.startswith(_DROPPED)}
        return Tally(
            self.written,
            self.kept,
            self.dropped(),
            others.get(_CLIPPED, 0),
            {what: count for what, count in others.items() if _LEFT_OUT in what},
        )

    def warnings(self, form: Form) -> tuple[str, ...]:
        """Return what looks wrong in all boxes together; `form` is how the format writes them."""
        found = format_warning(form, self.boxes, self.sizes)
        undecided = self.counts.get(UNDECIDED)
        said = (
            f"{_phrase(undecided or 0, UNDECIDED)}. If they were drawn on the pictures as stored, "
            "set "
            "the EXIF orientation of these files to 1"
        )
        return tuple(text for text in (found, said if undecided else None) if text)


def _phrase(count: int, what: str) -> str:
    """Return a count with a plural phrase, or with its singular for a single case."""
    if count == 1:
        head = _HEAD.match(what)
        end = head.end() if head else 0
        one = " ".join(_SINGULAR.get(word, word) for word in what[:end].split(" "))
        what = one + what[end:]
    return f"{count} {what}"


class Columns(NamedTuple):
    """The objects of one picture as arrays; see `LabeledImage` for shapes."""

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]


def clipped(
    file_name: str, width: int, height: int, objects: Iterable[RawObject], notes: ReadingNotes
) -> Columns:
    """Clip `objects` to their picture, leave out equal ones and those without area; count all."""
    kept: list[tuple[tuple[float, float, float, float], int, bool, float]] = []
    seen: set[tuple[tuple[float, float, float, float], int, bool]] = set()
    for thing in objects:
        notes.boxes.append(thing.box)
        notes.sizes.append((width, height))
        x1, y1, x2, y2 = thing.box
        where = f"{file_name} {thing.where}".rstrip()
        known = len(seen)
        seen.add((thing.box, thing.label, thing.crowd))
        if len(seen) == known:
            notes.add(f"{_DROPPED}{_SAME}", where)
            continue
        if not (x2 > x1 and y2 > y1):
            notes.add(f"{_DROPPED}no area", where)
            continue
        left, top = min(max(x1, 0.0), width), min(max(y1, 0.0), height)
        right, bottom = max(min(x2, float(width)), 0.0), max(min(y2, float(height)), 0.0)
        if not (right > left and bottom > top):
            notes.add(f"{_DROPPED}outside the picture", where)
            continue
        outside = max(left - x1, top - y1, x2 - right, y2 - bottom)
        if outside > _CLIP_TOLERANCE:
            notes.add(_CLIPPED, where)
        box_area = (right - left) * (bottom - top)
        area = box_area if thing.area is None else thing.area
        if outside > 0:
            area = min(area, box_area)
        kept.append(((left, top, right, bottom), thing.label, thing.crowd, area))
    notes.kept += len(kept)
    return Columns(
        np.array([k[0] for k in kept], dtype=np.float64).reshape(-1, 4),
        np.array([k[1] for k in kept], dtype=np.int64),
        np.array([k[2] for k in kept], dtype=np.bool_),
        np.array([k[3] for k in kept], dtype=np.float64),
    )


def note_other_files(files: Iterable[Path], notes: ReadingNotes) -> None:
    """Count the files of picture folders that are neither pictures nor annotations."""
    for file in files:
        ending = file.suffix.lower()
        if file.name.startswith("._") or file.name in _SYSTEM:
            continue
        if file.name.startswith("."):
            if ending in SUFFIXES:
                notes.add("hidden pictures, left out", file.name)
        elif ending in SUFFIXES:
            if not is_file(file):
                notes.add(
                    "links or other entries that lead to no picture file, left out", file.name
                )
        elif ending not in _ANNOTATIONS:
            notes.add("files that are no picture by their ending, left out", file.name)


def note_unlisted(
    pictures: Sequence[Path], split: str, notes: ReadingNotes, documents: Sequence[Path] = ()
) -> None:
    """Count the files that the folders of pictures hold beside the listed ones.

    Args:
        pictures: those that the split lists.
        split: its name. A folder of another name may serve several splits.
        notes: where they are counted.
        documents: all COCO files of the data set; a picture that one of them names is not counted.
            Without them, files of a folder that may serve several splits are not counted.
    """
    listed, named = set(pictures), file_names(documents)
    for folder in sorted({path.parent for path in pictures}):
        own = folder.name.lower().startswith(split.lower()[:3])
        if not own and not documents:
            continue
        files = sorted(file for file in folder.iterdir() if file not in listed)
        if folder not in {file.parent for file in documents}:
            note_other_files(files, notes)
        for file in files:
            if not is_picture_name(file) or not is_file(file) or name_key(file.name) in named:
                continue
            of = "the annotations do not list" if own else "no JSON file of the data set names"
            notes.add(f"pictures that {of}, left out", file.name)
