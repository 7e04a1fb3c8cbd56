"""Look at every picture before anything is trained or measured: at its header, or at all of it."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from benchmarks.data.image_set import ImageSet, check_size
from benchmarks.data.parts.jpeg_data import stops_early
from benchmarks.data.parts.lookup import examples
from benchmarks.data.parts.picture_ends import ends_plainly, missing_end
from export.atomic import read_checked_json, write_checked_json
from export.errors import DataError
from export.pictures.images import open_photograph, photograph_size

CACHE = "pictures.json"  # in the folder of all runs
_VERSION = 4
_THREADS = 4

Progress = Callable[[int], None]  # called with the number of pictures done


class _Facts(NamedTuple):
    """What is known of a file of this length and time of change."""

    bytes: int
    changed_ns: int
    width: int  # upright
    height: int
    decoded: bool  # whether all of it was read, not its header alone


class PictureCache:
    """Facts on picture files that were looked at before, in one file; it may be absent or old.

    Args:
        runs: folder of all runs, where the file lies.
        keep: whether `save` writes what is new.
    """

    def __init__(self, runs: Path, *, keep: bool = True) -> None:
        self._file, self._keep = runs / CACHE, keep
        self._facts: dict[str, _Facts] = {}
        self._fresh = False
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            written: Any = read_checked_json(self._file)
            if written["version"] == _VERSION and written["pillow"] == PIL.__version__:
                self._facts = {path: _Facts(*row) for path, row in written["pictures"].items()}

    def find(self, path: Path, *, decode: bool) -> _Facts | None:
        """Return the facts on a file that has not changed since; None if it has to be read."""
        known = self._facts.get(str(path.absolute()))
        if known is None or (decode and not known.decoded):
            return None
        with suppress(OSError):
            state = path.stat()
            if (state.st_size, state.st_mtime_ns) == (known.bytes, known.changed_ns):
                return known
        return None

    def add(self, path: Path, facts: _Facts) -> None:
        """Keep what was found."""
        self._facts[str(path.absolute())] = facts
        self._fresh = True

    def save(self) -> None:
        """Write the file where its folder exists and something is new."""
        if not (self._keep and self._fresh and self._file.parent.is_dir()):
            return
        content = {"version": _VERSION, "pillow": PIL.__version__, "pictures": self._facts}
        with suppress(OSError):  # without it pictures are read again, no more
            write_checked_json(content, self._file)
            self._fresh = False


def inspect_pictures(
    sets: Iterable[ImageSet],
    cache: PictureCache,
    *,
    decode: bool,
    progress: Progress | None = None,
) -> None:
    """Read header and end of every picture, or all of it; compare its size with the stated one.

    Args:
        sets: the splits; drawn ones are passed over.
        cache: facts of earlier calls; pictures in it are not read again.
        decode: read whole files. Else headers and ends of files are read, and only those are
            decoded that do not end as their format does, or have one without an end.
        progress: called after each picture.

    Raises:
        DataError: pictures that cannot be read or have another size than stated: the first in
            full, others by name.
    """
    wanted = [
        (image_set, index)
        for image_set in sets
        if image_set.draw is None
        for index in range(len(image_set))
    ]
    paths = list(dict.fromkeys(image_set.paths[index] for image_set, index in wanted))
    problems: dict[Path, str] = {}
    found: dict[Path, _Facts] = {}
    threads = min(_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        looks = pool.map(lambda path: _look(path, cache, decode), paths)
        for done, (path, looked) in enumerate(zip(paths, looks, strict=True), 1):
            if isinstance(looked, DataError):
                problems[path] = str(looked)
            else:
                found[path] = looked
                cache.add(path, looked)
            if progress is not None:
                progress(done)
    cache.save()
    for image_set, index in wanted:
        path = image_set.paths[index]
        if path in found and path not in problems:
            try:
                check_size(image_set, index, (found[path].width, found[path].height))
            except DataError as error:
                problems[path] = str(error)
    if problems:
        raise DataError(_in_words(problems, len(paths)))


def _look(path: Path, cache: PictureCache, decode: bool) -> _Facts | DataError:
    known = cache.find(path, decode=decode)
    if known is not None:
        return known
    try:
        state = path.stat()
        plain = ends_plainly(path, state.st_size)
        decode = decode or not plain
        lacks = None if plain else missing_end(path)
        if decode:
            pixels = open_photograph(path)
            height, width = pixels.shape[:2]
            if lacks is None and stops_early(path, pixels):
                lacks = "a JPEG whose data end before its last rows, with an end marker behind"
        else:
            width, height = photograph_size(path)
    except DataError as error:
        return error
    except OSError as error:
        return DataError(f"{path}: cannot be read: {error.strerror}")
    if lacks is not None:
        return DataError(f"{path}: a cut picture ({lacks}); replace or remove it")
    return _Facts(state.st_size, state.st_mtime_ns, width, height, decode)


def _in_words(problems: dict[Path, str], count: int) -> str:
    first, *others = problems
    if not others:
        return problems[first]
    named = examples([path.name for path in others])
    return f"{problems[first]} {len(problems)} of {count} pictures cannot be used; also {named}"


def pictures_of(sets: Sequence[ImageSet]) -> tuple[int, int]:
    """Return how many pictures in files the sets have, and how many bytes these are."""
    paths = {path for image_set in sets for path in image_set.paths}
    size = 0
    for path in paths:
        with suppress(OSError):
            size += path.stat().st_size
    return len(paths), size
