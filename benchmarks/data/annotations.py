"""Shared by all annotation readers: box checks, notes on corrections, finding pictures."""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.errors import DataError

_EXAMPLES = 3  # examples named in a note or message
_CLIP_TOLERANCE = 1.0  # pixels; smaller excursions are rounding, corrected without a note


class RawObject(NamedTuple):
    """One annotation before it is checked against its picture."""

    box: tuple[float, float, float, float]  # xyxy, pixels
    label: int  # 0..K-1
    crowd: bool = False
    area: float | None = None  # None: the box's own
    where: str = ""  # for messages: "annotation 17"


@dataclass
class ReadingNotes:
    """Counts of what a reader corrects or drops, with the first examples of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, example: str) -> None:
        """Count one case of `what`, a plural phrase such as `boxes dropped: no area`."""
        self.counts[what] = self.counts.get(what, 0) + 1
        kept = self.examples.setdefault(what, [])
        if len(kept) < _EXAMPLES:
            kept.append(example)

    def sentences(self) -> tuple[str, ...]:
        """Return one sentence per kind."""
        return tuple(
            f"{count} {what} ({', '.join(self.examples[what])}"
            f"{', ...' if count > len(self.examples[what]) else ''})"
            for what, count in self.counts.items()
        )

    def dropped(self) -> dict[str, int]:
        """Return the boxes left out, reason -> count."""
        head = "boxes dropped: "
        return {w.removeprefix(head): n for w, n in self.counts.items() if w.startswith(head)}


class Columns(NamedTuple):
    """The objects of one picture as arrays; see `LabeledImage` for shapes."""

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]


def clipped(
    file_name: str, width: int, height: int, objects: Iterable[RawObject], notes: ReadingNotes
) -> Columns:
    """Clip `objects` to their picture, leave out those without area, and count both."""
    kept: list[tuple[tuple[float, float, float, float], int, bool, float]] = []
    for thing in objects:
        x1, y1, x2, y2 = thing.box
        where = f"{file_name} {thing.where}".rstrip()
        if not (x2 > x1 and y2 > y1):
            notes.add("boxes dropped: no area", where)
            continue
        left, top = min(max(x1, 0.0), width), min(max(y1, 0.0), height)
        right, bottom = max(min(x2, float(width)), 0.0), max(min(y2, float(height)), 0.0)
        if not (right > left and bottom > top):
            notes.add("boxes dropped: outside the picture", where)
            continue
        outside = max(left - x1, top - y1, x2 - right, y2 - bottom)
        if outside > _CLIP_TOLERANCE:
            notes.add("boxes clipped to the picture", where)
        box_area = (right - left) * (bottom - top)
        area = box_area if thing.area is None else thing.area
        if outside > 0:
            area = min(area, box_area)
        kept.append(((left, top, right, bottom), thing.label, thing.crowd, area))
    return Columns(
        np.array([k[0] for k in kept], dtype=np.float64).reshape(-1, 4),
        np.array([k[1] for k in kept], dtype=np.int64),
        np.array([k[2] for k in kept], dtype=np.bool_),
        np.array([k[3] for k in kept], dtype=np.float64),
    )


def examples(items: Sequence[str]) -> str:
    """Return the first few of `items`, for a message."""
    return ", ".join(items[:_EXAMPLES]) + (", ..." if len(items) > _EXAMPLES else "")


def find_pictures(names: Sequence[str], folders: Sequence[Path], where: str) -> tuple[Path, ...]:
    """Find a file for each of `names` in `folders` or, by its bare name, below them.

    Names may be written with Windows' backslashes, or in another Unicode form than on the disk.

    Raises:
        DataError: naming the first missing ones, their count and where was looked.
    """
    folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    below: dict[str, list[Path]] | None = None
    found: list[Path] = []
    missing: list[str] = []
    for name in names:
        spellings = (name, name.replace("\\", "/"))
        places = (folder / spelling for spelling in spellings for folder in folders)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            if below is None:
                below = _files_below(folders)
            same = below.get(_composed(Path(spellings[1]).name), [])
            path = same[0] if len(same) == 1 else None
        if path is None:
            missing.append(name)
        else:
            found.append(path)
    if missing:
        looked = ", ".join(str(folder) for folder in folders) or "no folder that exists"
        raise DataError(
            f"{where}: {len(missing)} of {len(names)} pictures are not there: {examples(missing)}. "
            f"Looked in {looked}. Put them there, or name the folder (data.<split>.images)."
        )
    return tuple(found)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file under `folder`, also behind links to folders, each real folder once."""
    seen: set[Path] = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        real = Path(where).resolve()
        if real in seen:
            folders.clear()  # a link in a circle, or to a folder that was read already
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(where) / name for name in sorted(files))


def _files_below(folders: Sequence[Path]) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted({path for folder in folders for path in files_below(folder)}):
        if path.suffix and path.is_file():
            files.setdefault(_composed(path.name), []).append(path)
    return files


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
