"""YOLO's `data.yaml`: class names as they are written, and where the splits lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.parts.class_names import checked_names
from benchmarks.data.parts.splits import SPLITS
from benchmarks.data.parts.text import read_text
from benchmarks.data.parts.values import number_in
from export.errors import DataError, shown
from export.reading.plain_yaml import Key, Plain, YamlError, read_yaml

_MOST_CHARACTERS = 5_000_000  # tens of thousands of class names


@dataclass(frozen=True)
class DataYaml:
    """What is used of a `data.yaml`.

    Attributes:
        file: the file.
        names: class names, checked.
        path: folder that the splits are relative to, as written; None if not stated.
        splits: name -> entries, as written; only those that are named.
        pose: each box is followed by its key points.
    """

    file: Path
    names: tuple[str, ...]
    path: str | None
    splits: Mapping[str, tuple[str, ...]]
    pose: bool


def read_data_yaml(file: Path) -> DataYaml:
    """Read a `data.yaml`.

    Class names are taken as they are written: a class called `no` or `1.0` keeps its name.

    Raises:
        DataError: missing, not plain YAML, or wrong names, splits or `nc`.
    """
    read = _Read(file)
    if not read.has("names"):
        raise DataError(f"{file}: names: expected a list or a map of class names, found nothing")
    names = _class_names(read)
    if read.has("nc") and number_in(read.text(("nc",))) != len(names):
        stated = shown(read.text(("nc",)))[1:-1]
        raise DataError(f"{file}: nc is {stated}, but names holds {len(names)}")
    splits = {split: read.texts((split,)) for split in SPLITS if read.has(split)}
    named = {split: entries for split, entries in splits.items() if any(entries)}
    path = read.text(("path",)) if read.has("path") else ""
    return DataYaml(file, names, path or None, named, "kpt_shape" in read.keys)


def looks_like_data_yaml(file: Path) -> bool:
    """Whether a YAML file of any name has the keys of a `data.yaml`."""
    try:
        keys = _Read(file).keys
    except DataError:
        return False
    return "names" in keys and bool({"train", "val"} & set(keys))


class _Read:
    """The content of one file, and how its scalars are written."""

    def __init__(self, file: Path) -> None:
        self.file = file
        text = read_text(file, "YOLO's data.yaml")
        try:
            self._plain: Plain = read_yaml(text, number_keys=True, most=_MOST_CHARACTERS)
        except YamlError as error:
            raise DataError(f"{file}:{error}") from None
        if not isinstance(self._plain.value, dict):
            raise DataError(f"{file}: expected keys such as train, val and names")
        self.keys: dict[str, object] = dict(self._plain.value)

    def has(self, key: str) -> bool:
        """Whether a key stands at the top, with something other than null."""
        return self.keys.get(key) is not None

    def text(self, keys: Key) -> str:
        """Return a scalar as it is written.

        Raises:
            DataError: it is null, a list or a map.
        """
        value: object = self.keys
        for key in keys:
            value = value[key]  # type: ignore[index]
        where = f"{self.file}: {keys[0]}" + "".join(f"[{key}]" for key in keys[1:])
        if isinstance(value, list | dict):
            raise DataError(f"{where}: found a list or a map where one text was expected")
        if value is None:
            raise DataError(
                f"{where}: found null; expected a text (in quotes, if that is its name)"
            )
        return self._plain.texts.get(keys, str(value))

    def texts(self, keys: Key) -> tuple[str, ...]:
        """Return the scalars of a list, or the only one."""
        value = self.keys[str(keys[0])]
        if isinstance(value, list):
            return tuple(self.text((*keys, place)) for place in range(len(value)))
        return (self.text(keys),)


def _class_names(read: _Read) -> tuple[str, ...]:
    file, names = read.file, read.keys["names"]
    places: list[str | int]
    if isinstance(names, dict):
        by_number: dict[int, str | int] = {}
        for key in names:
            label = number_in(str(key))
            if label is None or not label.is_integer() or label < 0:
                raise DataError(f"{file}: names: key {shown(key)}; expected 0, 1, 2, ...")
            if int(label) in by_number:
                raise DataError(f"{file}: names: key {shown(key)} is there twice")
            by_number[int(label)] = key
        if sorted(by_number) != list(range(len(by_number))):
            keys = shown(sorted(by_number)[:5])
            raise DataError(f"{file}: names: keys {keys}...; expected 0, 1, 2, ...")
        places = [by_number[label] for label in range(len(by_number))]
    elif isinstance(names, list):
        places = list(range(len(names)))
    else:
        raise DataError(
            f"{file}: names: expected a list or a map of class names, found {shown(names)}"
        )
    written = [read.text(("names", place)) for place in places]
    return checked_names(written, file, lambda index: f"{file}: names[{index}]")
