"""Match the results of another program with the pictures of the data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from benchmarks.data.image_set import ImageSet
from benchmarks.data.parts.lookup import FilesByName, examples
from compress.teaching.predictions.results import PictureKey, Results
from export.errors import DataError, counted


class Place(NamedTuple):
    """A picture of the data: the key of its set, and its place there."""

    of_set: str
    number: int


@dataclass(frozen=True)
class Found:
    """The pictures that results are of.

    Attributes:
        places: key in the results -> pictures of the data, several where sets share one.
        how: what the keys are, in words.
        others: keys of no picture of the data.
    """

    places: Mapping[PictureKey, tuple[Place, ...]]
    how: str
    others: tuple[PictureKey, ...]


def find_pictures(results: Results, sets: Mapping[str, ImageSet]) -> Found:
    """Match the ids or file names in results with the pictures of the data.

    File names are used where they are stated. A bare number may be an id of the data, or the number
    that a file is named with (000000000139.jpg), as Ultralytics writes; whichever fits all of them.

    Raises:
        DataError: none is a picture of the data, or numbers fit both in different ways.
    """
    keys = tuple(dict.fromkeys(results.pictures))
    by_name = _by_name(results, keys, sets)
    numbers = [key for key in keys if isinstance(key, int) and key not in by_name]
    if results.file_names:  # what the numbers mean is stated
        numbers = []
    by_number, how = _by_number(numbers, sets, results.source) if numbers else ({}, "file names")
    places = {**by_name, **by_number}
    others = tuple(key for key in keys if key not in places)
    if not places:
        raise DataError(
            f"{results.source}: of other pictures: none of its {counted(len(keys), 'picture')} "
            f"({examples([str(key) for key in keys])}) is one of the data's "
            f"({_example_pictures(sets)}). Give annotations, the COCO file that the results' "
            "image_id are of, or results of these pictures"
        )
    return Found(places, how, others)


def _by_name(
    results: Results, keys: Sequence[PictureKey], sets: Mapping[str, ImageSet]
) -> dict[PictureKey, tuple[Place, ...]]:
    """Match the keys that are names, or whose names the results state."""
    named: dict[PictureKey, str] = {}
    for key in keys:
        name = key if isinstance(key, str) else results.file_names.get(key)
        if name is not None:
            named[key] = name
    if not named:
        return {}
    found: dict[PictureKey, tuple[Place, ...]] = {}
    tables = {of_set: _Names(images) for of_set, images in sets.items()}
    for key, name in named.items():
        # pictures of two folders may share a bare name: one of the whole name comes first
        for find in (_Names.exact, _Names.find):
            places = tuple(
                Place(of_set, index)
                for of_set, table in tables.items()
                if (index := find(table, name)) is not None
            )
            files = {_file(sets[place.of_set], place.number) for place in places}
            if places:
                break
        if len(files) == 1:
            found[key] = places
    return found


class _Names:
    """The pictures of a set by file name, with or without ending."""

    def __init__(self, images: ImageSet) -> None:
        files = [Path(image.file_name) for image in images.images]
        self._index: dict[Path, int] = {}
        self._stems: dict[str, list[int]] = {}
        for index, file in enumerate(files):
            self._index.setdefault(file, index)
            self._stems.setdefault(file.stem, []).append(index)
        self._files = FilesByName(self._index)

    def exact(self, name: str) -> int | None:
        """Return the index of the picture of this very name."""
        return self._index.get(Path(name))

    def find(self, name: str) -> int | None:
        """Return the index of the one picture that a name may mean."""
        files = self._files.find(name)
        if len(files) == 1:
            return self._index[files[0]]
        last = PurePosixPath(name.replace("\\", "/")).name
        alike = self._stems.get(last, []) if not files else []
        return alike[0] if len(alike) == 1 else None


def _by_number(
    numbers: Sequence[int], sets: Mapping[str, ImageSet], source: str
) -> tuple[dict[PictureKey, tuple[Place, ...]], str]:
    """Match numbers as ids of the data, or as the numbers that files are named with."""
    ways: dict[str, dict[PictureKey, tuple[Place, ...]]] = {
        "ids of the data": _numbered(numbers, sets, lambda images, i: images.images[i].id),
        "numbers in the files' names": _numbered(numbers, sets, _number_in_name),
    }
    fits = {how: found for how, found in ways.items() if found}
    if not fits:
        return {}, "ids of the data"
    most = max(len(found) for found in fits.values())
    best = {how: found for how, found in fits.items() if len(found) == most}
    if len(best) > 1 and len({tuple(found.items()) for found in best.values()}) > 1:
        raise DataError(
            f"{source}: its image_id are both {' and '.join(best)}, of different pictures; give "
            "annotations, the COCO file that they are ids of, or file names as image_id"
        )
    how = next(iter(best))
    return best[how], how


def _numbered(
    numbers: Iterable[int],
    sets: Mapping[str, ImageSet],
    number_of: Callable[[ImageSet, int], int | None],
) -> dict[PictureKey, tuple[Place, ...]]:
    """Return the pictures of each number; none where pictures of two files have one."""
    table: dict[int, list[Place]] = {}
    for of_set, images in sets.items():
        for index in range(len(images)):
            number = number_of(images, index)
            if number is not None:
                table.setdefault(number, []).append(Place(of_set, index))
    found: dict[PictureKey, tuple[Place, ...]] = {}
    for number in numbers:
        places = table.get(number, [])
        files = {_file(sets[place.of_set], place.number) for place in places}
        if len(files) > 1:
            return {}
        if places:
            found[number] = tuple(places)
    return found


def _file(images: ImageSet, index: int) -> str:
    return str(images.paths[index]) if images.paths else images.images[index].file_name


def _number_in_name(images: ImageSet, index: int) -> int | None:
    stem = PurePosixPath(images.images[index].file_name).stem
    return int(stem) if stem.isdecimal() and len(stem) <= 18 else None


def _example_pictures(sets: Mapping[str, ImageSet]) -> str:
    said = []
    for name, images in sets.items():
        first = images.images[0]
        said.append(f"{name}: id {first.id} is {first.file_name}")
    return "; ".join(said)
