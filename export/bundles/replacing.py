"""What a new bundle may replace: an older bundle and nothing else, and no file it is made of."""

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

from export.artifact import bundle_content
from export.artifact.bundle_files import unlisted_files
from export.errors import ExportError, printable
from export.verify import built_files, load_sessions


def require_replaceable(folder: Path, sources: Sequence[Path] = ()) -> None:
    """Check that a bundle may be written to `folder` and packed beside it.

    Args:
        folder: may be missing, empty, or a bundle without any file that it does not list.
        sources: files that the new bundle is made of; they must not lie in `folder`.

    Raises:
        ExportError: a file would be lost; names it.
    """
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        _require_bundle(folder)
        root = folder.resolve()
        for source in sources:
            if source.resolve().is_relative_to(root):
                raise ExportError(
                    f"{source}: lies in {folder}, which the new bundle would replace; choose "
                    "another folder with --out"
                )
    packed = folder.with_name(folder.name + ".tar.gz")
    if os.path.lexists(packed) and not _packs(packed, f"{folder.name}/{bundle_content.CONTENT}"):
        raise ExportError(
            f"{packed}: is there and is not the packed bundle of {folder.name}; move it away or "
            "choose another folder with --out"
        )


def _require_bundle(folder: Path) -> None:
    """Refuse a folder that is not exactly a bundle, with what was built in it."""
    if folder.is_symlink():
        raise ExportError(f"{folder}: is a link; name the folder that it leads to")
    try:
        bundle = bundle_content.read_content(folder)
    except bundle_content.BundleError as error:
        raise ExportError(
            f"{folder}: is there and no bundle; choose another folder with --out ({error})"
        ) from None
    foreign = unlisted_files(folder, bundle["files"], built_files(load_sessions([])))
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise ExportError(
            f"{folder / printable(foreign[0])}{more}: not a file of the bundle, and would be "
            f"deleted with {folder}; move it away or choose another folder with --out"
        )


def _packs(archive: Path, name: str) -> bool:
    """Whether `archive` is a packed bundle with the file `name`."""
    try:
        with tarfile.open(archive, "r:gz") as content:
            return any(entry.name == name for entry in content)
    except (OSError, tarfile.TarError, EOFError, ValueError):
        return False
