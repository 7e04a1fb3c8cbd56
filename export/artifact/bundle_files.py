"""Find the files in a bundle's folder that `bundle.json` does not list with their hashes.

A bundle holds a copy of this file as `bundle_files.py`, so it imports nothing of ours but
`bundle_content.py` beside it.
"""

import os
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__ == "export.artifact":
    from export.artifact.bundle_content import CONTENT, BundleError, as_json
else:  # the copy in a bundle
    from bundle_content import CONTENT, BundleError, as_json

ENGINE_CACHE = ".onnxruntime-tensorrt"  # of ONNX Runtime's TensorRT provider, beside an ONNX file
_CODE = frozenset(
    {".py", ".pyc", ".pyw", ".pth", ".so", ".pyd", ".dll", ".dylib", ".sh", ".bat", ".exe", ".whl"}
)
_OWN = frozenset({"README.md", "labels.txt", "thresholds.json"})
_OF_SYSTEMS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # in every folder they showed


def check_unlisted(folder: Path, listed: Collection[str], built: Collection[str]) -> list[str]:
    """Return the files in a bundle's folder that are not of the bundle, such as a user's pictures.

    Files that building and verifying leave there are not among them.

    Args:
        folder: the bundle.
        listed: `files` of its `bundle.json`.
        built: names of files that `build_engines.sh` writes beside an ONNX file.

    Raises:
        BundleError: such a file is a program beside `verify.py`, or lies where it may be taken for
            one of the bundle.
    """
    strays = unlisted_files(folder, listed, built)
    owned = {PurePosixPath(name).parent for name in listed} - {PurePosixPath(".")}
    for name in strays:
        path = PurePosixPath(name)
        system = path.name in _OF_SYSTEMS or path.name.startswith("._")
        # A package at the top would be imported by `python verify.py` in place of numpy, say.
        runs = len(path.parts) == 1 or (len(path.parts) == 2 and path.stem == "__init__")
        code = runs and path.suffix.lower() in _CODE
        if code or name in _OWN or (path.parent in owned and not system):
            raise BundleError(
                f"{folder / CONTENT}: files does not list {as_json(name)}, which lies in the "
                "bundle; unpack the bundle again, or move the file out of it"
            )
    return strays


def unlisted_files(folder: Path, listed: Collection[str], built: Collection[str]) -> list[str]:
    """Return the paths inside `folder`, sorted, that are neither listed nor made from what is.

    A link to a folder is one path; nothing is followed.
    """
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        found += [(here / name).relative_to(folder).as_posix() for name in (*names, *links)]
    return sorted(set(found) - {CONTENT, *listed} - _made(found, listed, built))


def _made(found: Iterable[str], listed: Collection[str], built: Collection[str]) -> set[str]:
    """Return what Python and TensorRT leave beside listed files: bytecode, engines, caches."""
    graphs = {PurePosixPath(name).parent for name in listed if name.endswith(".onnx")}
    made = set()
    for name in found:
        path = PurePosixPath(name)
        if path.parent.name == "__pycache__":
            source = path.parent.parent / f"{path.name.partition('.')[0]}.py"
            if path.suffix == ".pyc" and source.as_posix() in listed:
                made.add(name)
            continue
        engine = path.parent in graphs and path.name in built
        if engine or (path.parent.name == ENGINE_CACHE and path.parent.parent in graphs):
            made.add(name)
    return made


def warning_of(strays: Collection[str]) -> str:
    """Say how many files were not checked, and name the first."""
    first = next(iter(strays))
    count = f"{len(strays)} file{'s' if len(strays) > 1 else ''}"
    return f"{count} in its folder not checked, as the bundle does not list them: {as_json(first)}"
