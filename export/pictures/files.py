"""Picture files in folders: which endings count, what is skipped, links."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from export.errors import DataError, printable

# All that a picture file may hold, whatever its ending: the formats that are decoded inside Pillow.
# Others start programs (EPS runs Ghostscript), leave decoding to the system (WMF), or are no
# photographs. MPO and APNG are opened as JPEG and PNG.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000") + (
    ("AVIF",) if find_spec("PIL.AvifImagePlugin") else ()
)
READ = "JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, JPEG 2000 or AVIF"  # for messages
# Endings of pictures; Pillow reads each of them, by what the file holds.
SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
USUAL = ".jpg, .png, .webp, .bmp, .tif, .gif"  # for messages
_LONGEST_LINK = 1024  # bytes; a longer file is no link that was stored as text


def is_picture_name(path: Path) -> bool:
    """Whether a file's name has the ending of a picture and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def is_file(path: Path) -> bool:
    """Whether a regular file is there; false also for names that no disk can hold."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_whole_system(folder: Path) -> bool:
    """Whether a folder holds the whole disk, or is one of devices or processes."""
    real = folder.resolve()
    own = {Path(name) for name in ("/proc", "/sys")}
    return real.parent == real or real == Path("/dev") or bool(own & {real, *real.parents})


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file under `folder`, also behind links to folders, each real folder once.

    Hidden folders and `__MACOSX` are left out.

    Raises:
        DataError: a folder cannot be read, it is the whole disk or one of the system's own, or a
            text file stands where a link was.
    """
    if is_whole_system(folder):
        raise DataError(
            f"{folder}: the whole disk or a folder of the system's own; expected one of pictures"
        )

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}")

    seen: set[Path] = set()
    # A link to one of the folders around this one leads in a circle, or to other splits.
    around = {*folder.resolve().parents, *(p.resolve() for p in folder.absolute().parents)}
    for where, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = Path(where).resolve()
        if real in seen or real in around:
            folders.clear()  # a link in a circle, or to a folder that was read already
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        for name in sorted(files):
            path = Path(where) / name
            if not path.suffix:
                _refuse_lost_link(path)
            yield path


def pictures_below(folder: Path) -> list[Path]:
    """Return every picture file under `folder`, also behind links, sorted by path."""
    return sorted(file for file in files_below(folder) if is_picture_name(file) and is_file(file))


def pictures_in(folder: Path) -> list[Path]:
    """Return every picture file directly in `folder`, sorted by path."""
    return sorted(file for file in folder.iterdir() if is_picture_name(file) and is_file(file))


def _refuse_lost_link(path: Path) -> None:
    """Refuse a small text file that holds the path of a folder.

    Archives and checkouts without support of symbolic links leave such files; the pictures
    behind the link would be missing without a word.
    """
    try:
        if not path.is_file() or not 0 < path.stat().st_size <= _LONGEST_LINK:
            return
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return
    if "/" not in text or len(text.splitlines()) != 1 or not text.isprintable():
        return
    if text.startswith((".", "/")):
        raise DataError(
            f"{path}: a text file that holds the path {printable(text)}: a symbolic link that was "
            "lost when the data set was copied. Put the link or its folder back, or remove the file"
        )
