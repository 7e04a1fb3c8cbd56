"""Find the files that annotations name, however the names were written."""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from export.errors import DataError, counted, shown
from export.pictures.files import files_below, is_file, is_whole_system

_EXAMPLES = 3  # how many offenders a note or message names
_FILE_NAME = re.compile(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_LONGEST = 100  # characters of a name in a message


def examples(items: Sequence[str]) -> str:
    """Return the first few of `items`, for a message; long ones are cut."""
    named = [i if len(i) <= _LONGEST else f"{i[: _LONGEST - 1]}…" for i in items[:_EXAMPLES]]
    return ", ".join(named) + (", ..." if len(items) > _EXAMPLES else "")


def name_key(name: str) -> str:
    """Return what names have in common that differ in letter case or Unicode form only."""
    return unicodedata.normalize("NFC", name).casefold()


def file_names(documents: Iterable[Path]) -> set[str]:
    """Return the `name_key` of every `file_name` in JSON files, without its folders.

    The text is searched, as parsing large files takes many times as long.
    """
    found: set[str] = set()
    for document in documents:
        with suppress(OSError, ValueError, RecursionError):
            content = document.read_bytes()
            text = content.decode(json.detect_encoding(content), "replace")
            for quoted in _FILE_NAME.findall(text):
                name = str(json.loads(quoted, strict=False))
                found.add(name_key(name.replace("\\", "/").rsplit("/", 1)[-1]))
    return found


class FilesByName:
    """Files, found by name without regard to letter case and Unicode form."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files: dict[str, list[Path]] = {}
        for file in files:
            self._files.setdefault(name_key(file.name), []).append(file)

    def find(self, name: str) -> list[Path]:
        """Return the files that `name`, a path with either separator, may mean; best ones alone.

        Of several with the same bare name, those whose folders agree with most of the path.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts:
            return []
        found = self._files.get(name_key(parts[-1]), [])
        exact = [path for path in found if path.name == parts[-1]]
        found = exact or found
        if len(found) < 2:
            return found
        wanted = [name_key(part) for part in parts[::-1]]
        scores = [_agreement([name_key(p) for p in path.parts[::-1]], wanted) for path in found]
        return [path for path, score in zip(found, scores, strict=True) if score == max(scores)]


class FilesBelow:
    """The files below some folders, found by name; they are listed when one is first asked for."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [
            folder for folder in folders if folder.is_dir() and not is_whole_system(folder)
        ]
        self._files: FilesByName | None = None

    def find(self, name: str) -> list[Path]:
        """Return the regular files that `name` may mean, as `FilesByName.find`."""
        if self._files is None:
            self._files = FilesByName(sorted({p for f in self._folders for p in files_below(f)}))
        return [file for file in self._files.find(name) if is_file(file)]


class FilesByStem:
    """Files, found by their name without ending; by letter case and Unicode form if it helps."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.exact: dict[str, Path] = {}
        self._loose: dict[str, list[Path]] = {}
        self.doubled: list[Path] = []  # of two with the same stem, the first is taken
        for file in files:
            if self.exact.setdefault(file.stem, file) is not file:
                self.doubled.append(file)
            else:
                self._loose.setdefault(name_key(file.stem), []).append(file)

    def __len__(self) -> int:
        """Return the number of stems."""
        return len(self.exact)

    def get(self, stem: str) -> Path | None:
        """Return the file of a stem; one that differs in letter case only if no other does."""
        loose = self._loose.get(name_key(stem), [])
        return self.exact.get(stem) or (loose[0] if len(loose) == 1 else None)


def _agreement(have: Sequence[str], wanted: Sequence[str]) -> int:
    count = 0
    for own, other in zip(have, wanted, strict=False):
        if own != other:
            break
        count += 1
    return count


def find_pictures(names: Sequence[str], folders: Sequence[Path], where: str) -> tuple[Path, ...]:
    """Find a file for each of `names` in `folders` or, by its bare name, below them.

    Names may have Windows' backslashes, the folders of another machine, another letter case or
    another Unicode form than on the disk.

    Raises:
        DataError: naming the first missing ones, or those that several files fit, and where was
            looked.
    """
    folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    below = FilesBelow(folders)
    found: list[Path] = []
    missing: list[str] = []
    unclear: list[str] = []
    for name in names:
        spellings = dict.fromkeys((name, name.replace("\\", "/")))
        places = (folder / spelling for spelling in spellings for folder in folders)
        path = next((place for place in places if is_file(place)), None)
        if path is None:
            same = below.find(name)
            path = same[0] if len(same) == 1 else None
            if len(same) > 1:
                unclear.append(f"{shown(name)} ({examples([str(file) for file in same])})")
                continue
        if path is None:
            missing.append(shown(name)[1:-1])
        else:
            found.append(path)
    looked = ", ".join(str(folder) for folder in folders) or "no folder that exists"
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {counted(len(names), 'picture is', 'pictures are')} not "
            "there: "
            f"{examples(missing)}. "
            f"Looked in {looked}. Put them there, or name the folder (data.<split>.images)."
        )
    if unclear:
        raise DataError(
            f"{where}: {counted(len(unclear), 'name fits', 'names fit')} several pictures: "
            f"{examples(unclear)}. Write the folder in file_name, or name the folder "
            "(data.<split>.images)."
        )
    return tuple(found)
