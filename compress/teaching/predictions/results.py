"""Read COCO results: a JSON list of image_id, category_id, bbox and score."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.coco_json import categories, image_entries
from benchmarks.data.parts.values import MOST, number, whole
from export.errors import DataError, counted, shown
from export.reading.mistakes import brief

PictureKey: TypeAlias = "int | str"  # an id, or a file's name

_EXPECTED = "expected COCO results: a list of {image_id, category_id, bbox, score}"


@dataclass(frozen=True)
class Results:
    """All boxes of some files, as they are written there.

    Attributes:
        pictures: id or file name of the picture of each of the N boxes.
        category_ids: (N,) int64.
        boxes: (N, 4) float64 xyxy.
        scores: (N,) float64 in 0..1.
        file_names: picture id -> file name, where a file states it; empty elsewhere.
        categories: category id -> name, where a file states it; empty elsewhere.
        source: the files, for messages.
    """

    pictures: tuple[PictureKey, ...]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    file_names: Mapping[int, str]
    categories: Mapping[int, str]
    source: str


def read_results(files: Sequence[Path], annotations: Path | None = None) -> Results:
    """Read files of results and check every entry.

    Args:
        files: each a list of results, or an object that has them under `annotations`, perhaps
            with `images` and `categories`.
        annotations: COCO file whose `images` and `categories` the ids are of.

    Raises:
        DataError: a file is missing, cut off or no COCO results; or an entry is wrong.
    """
    pictures: list[PictureKey] = []
    numbers: list[tuple[int, float, float, float, float, float]] = []
    file_names: dict[int, str] = {}
    names: dict[int, str] = {}
    file_of: dict[PictureKey, int] = {}
    unstated: dict[int, int] = {}  # file -> one of its ids, where it does not say what they are of
    for place, path in enumerate(files):
        content = _parsed(path)
        entries = _entries(content, path)
        states = isinstance(content, dict) and "images" in content
        if isinstance(content, dict):
            _add_tables(content, path, file_names, names)
        for key, values in _checked(entries, path):
            other = files[file_of.setdefault(key, place)]
            if file_of[key] != place:
                raise DataError(_in_two_files(key, other, path))
            if isinstance(key, int) and not states:
                unstated.setdefault(place, key)
            pictures.append(key)
            numbers.append(values)
    if unstated and file_names and annotations is None:
        place, image_id = next(iter(unstated.items()))
        raise DataError(
            f"{files[place]}: does not say what its image_id {image_id} is, and another file says "
            "what its own are; give file names as image_id, `images` in every file, or annotations"
        )
    if annotations is not None:
        content = _parsed(annotations)
        if not isinstance(content, dict) or not {"images", "categories"} <= content.keys():
            raise DataError(
                f"{annotations}: expected a COCO file with `images` and `categories`, which say "
                "what the ids of the results mean"
            )
        file_names, names = {}, {}
        _add_tables(content, annotations, file_names, names)
    source = ", ".join(str(path) for path in files)
    if not pictures:
        raise DataError(f"{source}: no results in it; {_EXPECTED}")
    columns = np.array(numbers, dtype=np.float64)
    return Results(
        tuple(pictures),
        columns[:, 0].astype(np.int64),
        columns[:, 1:5],
        columns[:, 5],
        file_names,
        names,
        source,
    )


def _in_two_files(key: PictureKey, first: Path, second: Path) -> str:
    """Say that two files have boxes of one picture."""
    if first == second:
        return f"{second}: is given twice; give it once"
    return (
        f"{second}: has boxes of image_id {shown(key)}, and so has {first}: if they are of two "
        "pictures, give file names as image_id, or each file its own run; if of one, put its boxes "
        "into one file"
    )


def _parsed(path: Path) -> object:
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: no regular file; COCO results were expected here")
        content: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; COCO results were expected here") from None
    except RecursionError:
        raise DataError(f"{path}: cannot be read as JSON: nested too deeply") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as JSON: {shown(str(error))[1:-1]}; a file that was cut off "
            "is to be written or copied again"
        ) from None
    return content


def _entries(content: object, path: Path) -> Sequence[object]:
    """Return the list of results of a file."""
    if isinstance(content, dict):
        inside = content.get("annotations")
        if not isinstance(inside, list):
            keys = shown(list(content)[:8])[1:-1] or "nothing"
            raise DataError(f"{path}: an object that holds {keys}; {_EXPECTED}")
        content = inside
    if not isinstance(content, list):
        raise DataError(f"{path}: found {brief(content)}; {_EXPECTED}")
    return content


def _add_tables(
    content: Mapping[str, object], path: Path, file_names: dict[int, str], names: dict[int, str]
) -> None:
    """Add the pictures and classes that a file states; of several files they must agree."""
    for key, known in (("images", file_names), ("categories", names)):
        listed = content.get(key)
        if listed is None:
            continue
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise DataError(f"{path}: `{key}` should be a list of objects")
        stated = (
            {one: entry.file_name for one, entry in image_entries(listed, path).items()}
            if key == "images"
            else categories(listed, path)
        )
        for one, name in stated.items():
            if known.setdefault(one, name) != name:
                raise DataError(
                    f"{path}: `{key}` says that id {one} is {shown(name)}, and another file that "
                    f"it is {shown(known[one])}; give files whose ids agree"
                )


def _checked(
    entries: Sequence[object], path: Path
) -> Iterator[tuple[PictureKey, tuple[int, float, float, float, float, float]]]:
    """Yield picture, category, corners and score of each entry."""
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: results[{place}] is {shown(entry)}; {_EXPECTED}")
        head = f"{path}: results[{place}]"
        key = _picture(entry, head)
        category = whole(entry.get("category_id"))
        if category is None:
            said = shown(entry.get("category_id"))
            raise DataError(f"{head}: category_id {said}; expected a whole number")
        if "score" not in entry:
            raise DataError(
                f"{head} has no score; these are annotations of people, or no results. {_EXPECTED}"
            )
        score = number(entry["score"])
        if score is None or not 0 <= score <= 1:
            raise DataError(
                f"{head}: score {shown(entry['score'])}; expected a number in 0..1"
                + _percent(entries)
            )
        box = entry.get("bbox")
        values = [number(one) for one in box] if isinstance(box, list) else []
        x, y, width, height = values if len(values) == 4 else (None, None, None, None)
        if x is None or y is None or width is None or height is None:
            raise DataError(
                f"{head}: bbox {shown(box)}; expected four numbers [x, y, width, height] of "
                f"pixels, each between -{MOST:.0e} and {MOST:.0e}"
            )
        yield key, (category, x, y, x + width, y + height, score)


def _picture(entry: Mapping[str, object], head: str) -> PictureKey:
    name, said = entry.get("file_name"), entry.get("image_id")
    if isinstance(name, str) and name:  # plainer than a number
        return name
    if isinstance(said, str) and said:
        return said
    image_id = whole(said)
    if image_id is None:
        raise DataError(f"{head}: image_id {shown(said)}; expected a whole number or a file's name")
    return image_id


def _percent(entries: Sequence[object]) -> str:
    """Return what scores of percent look like, if these are; else nothing."""
    scores = [number(one.get("score")) for one in entries if isinstance(one, dict)]
    plain = [one for one in scores if one is not None]
    percent = len(plain) == len(scores) and all(0 <= one <= 100 for one in plain)
    many = sum(one > 1 for one in plain) > len(plain) / 2
    if percent and many and max(plain) > 2:
        return f"; all {counted(len(plain), 'score')} lie in 0..100, as percent do: divide by 100"
    return ""
