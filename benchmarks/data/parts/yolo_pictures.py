"""Where a YOLO set keeps its class names and the pictures of each split."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from benchmarks.data.parts.class_names import checked_names
from benchmarks.data.parts.data_yaml import DataYaml, looks_like_data_yaml, read_data_yaml
from benchmarks.data.parts.lookup import FilesBelow, examples
from benchmarks.data.parts.splits import SPLITS, split_names
from benchmarks.data.parts.text import lies_within, read_lines
from export.errors import DataError, counted, shown
from export.pictures.files import (
    USUAL,
    is_picture_name,
    is_whole_system,
    pictures_below,
)

CLASS_LISTS = ("classes.txt", "obj.names", "classes.names", "_darknet.labels")

_HASHED = re.compile(r"[0-9a-f]{24}")  # in names of files in caches of git-annex, DVC, Hugging Face


@dataclass
class YoloPictures:
    """What is known of a split before its label files are read.

    Attributes:
        file: the description, for messages.
        classes: K names.
        pictures: picture files of the split.
        folders: the folders that were taken whole; empty where lists name the pictures.
        pose: each box is followed by its key points.
        moved: entries with the folders of another machine, found below those of this one.
        doubled: pictures that the split names more than once.
    """

    file: Path
    classes: tuple[str, ...]
    pictures: list[Path]
    folders: list[Path]
    pose: bool = False
    moved: list[str] = field(default_factory=list)
    doubled: list[Path] = field(default_factory=list)


def find_data_yaml(root: Path) -> Path | None:
    """Return the YOLO description in `root`: `data.yaml`, or the one YAML that reads like it."""
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (root / name).is_file():
            return root / name
    files = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    return next((f for f in files if f.name[0] != "." and looks_like_data_yaml(f)), None)


def find_class_list(root: Path) -> Path | None:
    """Return the plain list of class names in `root`, or in `labels/`, `images/` or `train/`."""
    folders = (root, root / "labels", root / "images", root / "train")
    places = (folder / name for name in CLASS_LISTS for folder in folders)
    return next((place for place in places if place.is_file()), None)


def yolo_splits(root: Path) -> list[str]:
    """Return the names of the splits that the data set in `root` comes with."""
    description = find_data_yaml(root)
    if description is not None:
        return list(_read_own(description, root).splits)
    below = _heap(root)
    return [name for name in SPLITS if (below / name).is_dir()]


def find_yolo(root: Path, split: str | None, path: Path | None) -> YoloPictures:
    """Find class names and pictures.

    Args:
        root: folder of the data set.
        split: name of the split; None for all pictures of a set that has no splits.
        path: another `data.yaml`.

    Raises:
        DataError: no description, a wrong one, or no such split.
    """
    file = path or find_data_yaml(root)
    if file is not None:
        content = _read_own(file, root) if path is None else read_data_yaml(file)
        if split is None:
            return _whole(file, content.names, _heap(root), content.pose)
        return _split(content, split)
    file = find_class_list(root)
    if file is None:
        raise DataError(
            f"{root}: no data.yaml there, and no list of class names ({', '.join(CLASS_LISTS)})"
        )
    names = _listed_names(file, root)
    if split is None:
        return _whole(file, names, _heap(root))
    below = _heap(root)
    folders = (below / name for name in split_names(split))
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise DataError(
            f"{below}: no folder {split!r} for this split; split folders there: "
            f"{', '.join(yolo_splits(root)) or 'none'}"
        )
    return _whole(file, names, folder)


def _whole(file: Path, classes: tuple[str, ...], folder: Path, pose: bool = False) -> YoloPictures:
    pictures = pictures_below(folder)
    if not pictures:
        raise DataError(f"{folder}: no pictures in it; label files need them by the same names")
    return YoloPictures(file, classes, pictures, [folder], pose)


def _heap(root: Path) -> Path:
    """Return the folder of the pictures, or of their splits: `images/`, or the set's own."""
    return root / "images" if (root / "images").is_dir() else root


def _read_own(file: Path, root: Path) -> DataYaml:
    """Read the `data.yaml` of a data set; a link out of the set, if it fails, is not quoted."""
    try:
        return read_data_yaml(file)
    except DataError:
        if lies_within(file, root):
            raise
    raise DataError(
        f"{file}: a link out of the data set, to a file that cannot be read as YOLO's data.yaml; "
        "put the file itself there"
    )


def _listed_names(file: Path, root: Path) -> tuple[str, ...]:
    """Read class names, one per line; a line's place is the number in the label files.

    Any text reads as a list of names, which are shown, so a link out of the data set may only lead
    to a file of such a name, or of one by content as stores of data sets have.
    """
    target = file.resolve().name
    own = target in CLASS_LISTS or _HASHED.search(target) is not None
    if not own and not lies_within(file, root):
        raise DataError(
            f"{file}: a link out of the data set, to a file with another name than a list of "
            f"class names has ({', '.join(CLASS_LISTS)}); put the list itself there"
        )
    names = [line.strip() for line in read_lines(file, "a list of class names")]
    while names and not names[-1]:
        names.pop()
    return checked_names(names, file, lambda index: f"{file}:{index + 1}")


def _split(content: DataYaml, split: str) -> YoloPictures:
    """Return the pictures of a split."""
    file = content.file
    key = next((name for name in split_names(split) if name in content.splits), None)
    if key is None:
        there = ", ".join(content.splits) or "none"
        raise DataError(f"{file}: no split {split!r}; it names {there}")
    entries = content.splits[key]
    bases = _bases(content)
    found = YoloPictures(file, content.names, [], [], content.pose)
    pictures: list[Path] = []
    lists = False
    for entry in entries:
        place = _resolve(entry, bases) or _moved_folder(entry, bases, key, found.moved)
        if place is None:
            raise DataError(
                f"{file}: {key}: {shown(entry)[1:-1]} is not there; looked in "
                f"{', '.join(map(str, bases))}"
            )
        if place.is_dir():
            if is_whole_system(place):
                raise DataError(
                    f"{file}: {key}: {shown(entry)[1:-1]} is the whole disk or a folder of the "
                    "system's own; expected a folder of pictures"
                )
            found.folders.append(place)
            pictures += pictures_below(place)
        elif is_picture_name(place):
            raise DataError(
                f"{file}: {key}: {shown(entry)[1:-1]} is a picture; expected a folder of pictures, "
                "or a text file that names one a line"
            )
        else:
            lists = True
            where = f"{file}: {key}: {place}"
            pictures += _from_list(place, bases, where, found.moved)
    if not pictures:
        raise DataError(f"{file}: {key}: no pictures in {', '.join(entries)}")
    found.pictures = list(dict.fromkeys(pictures))
    found.doubled = [path for path, count in Counter(pictures).items() if count > 1]
    if lists:
        found.folders.clear()
    return found


def _bases(content: DataYaml) -> list[Path]:
    """Return the folders that entries may be relative to; downloads often move from `path`."""
    beside, stated = content.file.parent, content.path
    bases = [] if stated is None else [beside / stated.replace("\\", "/"), Path(stated)]
    return list(dict.fromkeys([*bases, beside]))


def _resolve(entry: str, bases: Sequence[Path]) -> Path | None:
    """Find `entry` in `bases`; some exports write `../train` for a folder beside data.yaml."""
    entry = entry.replace("\\", "/")  # lists written on Windows
    inside = entry
    while inside.startswith("../"):
        inside = inside.removeprefix("../")
    places = (base / spelling for spelling in dict.fromkeys((entry, inside)) for base in bases)
    return next((place for place in places if _exists(place)), None)


def _moved_folder(entry: str, bases: Sequence[Path], key: str, moved: list[str]) -> Path | None:
    """Find an absolute path of another machine by its last parts: two, or the split's name."""
    parts = _absolute_parts(entry)
    for start in range(1, len(parts)):
        tail = parts[start:]
        if len(tail) > 1 or tail[0].lower() in split_names(key):
            place = _resolve("/".join(tail), bases)
            if place is not None:
                moved.append(entry)
                return place
    return None


def _absolute_parts(entry: str) -> tuple[str, ...]:
    """Return the parts of an absolute path, of Windows too; none of a relative one."""
    parts = PurePosixPath(entry.replace("\\", "/")).parts
    return parts if parts and (parts[0] == "/" or parts[0].endswith(":")) else ()


def _from_list(file: Path, bases: Sequence[Path], where: str, moved: list[str]) -> list[Path]:
    """Read a text file of pictures, one per line.

    Only names with a picture's ending are quoted in messages: the file may be another one.
    """
    quotes = not file.is_symlink() or lies_within(file, bases[-1])
    lines = [line.strip() for line in read_lines(file, "a list of pictures")]
    named = [(number, line) for number, line in enumerate(lines, 1) if line]
    others = [number for number, line in named if not is_picture_name(Path(line.rsplit("\\")[-1]))]
    if others:
        raise DataError(
            f"{where}: {len(others)} of {counted(len(named), 'line does', 'lines do')} not end "
            f"like a picture ({USUAL}), the first is line {others[0]}; expected a list of "
            "pictures, one a line"
        )
    places = [file.parent, *bases]
    pictures: list[Path] = []
    missing: list[str] = []
    below = FilesBelow(places)
    for number, line in named:
        place = _resolve(line, places)
        if place is None or not place.is_file():
            same = below.find(line)
            place = same[0] if len(same) == 1 else None
            if place is not None and _absolute_parts(line):
                moved.append(line)
        if place is None:
            missing.append(shown(line)[1:-1] if quotes else f"line {number}")
        else:
            pictures.append(place)
    if missing:
        raise DataError(
            f"{where}: {counted(len(missing), 'picture is', 'pictures are')} not there: "
            f"{examples(missing)}"
        )
    return pictures


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
