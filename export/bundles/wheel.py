"""This very version of slimdet as a wheel, so that a bundle installs the code that made it.

A name on a package index may belong to anybody, or to another version; the wheel beside the models
does not. It is put together from the modules on disk, since a build needs tools and a network that
the machine may not have.
"""

import base64
import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "slimdet"
PACKAGES = ("export", "slimdet", "benchmarks", "compress")
MODULES = ("_slimdet_packages",)
_LEFT_OUT = frozenset({"__pycache__", "results"})  # of the packages' folders
_OLDEST = (1980, 1, 1, 0, 0, 0)  # date of every member: the same bytes for the same content


def wheel_name(version: str) -> str:
    """Return the file name of the wheel of a version."""
    return f"{DISTRIBUTION}-{version}-py3-none-any.whl"


def installed_version() -> str | None:
    """Return this version of slimdet; None where it runs from a folder without installation."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


def wheel() -> tuple[str, bytes] | None:
    """Return name and content of a wheel of the slimdet that runs; None if it is not installed.

    The wheel has the installed metadata (dependencies, extras, commands) and the files on disk.
    """
    version = installed_version()
    if version is None:
        return None
    distribution = metadata.distribution(DISTRIBUTION)
    info = f"{DISTRIBUTION}-{version}.dist-info"
    members = dict(_sources())
    # An editable installation may keep it under the name that a source distribution gives it.
    stated = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    members[f"{info}/METADATA"] = stated.encode()
    members[f"{info}/entry_points.txt"] = (
        distribution.read_text("entry_points.txt") or ""
    ).encode()
    members[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: slimdet\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = f"{info}/RECORD"
    lines = [f"{name},{_digest(content)},{len(content)}" for name, content in members.items()]
    members[record] = "".join(f"{line}\n" for line in [*lines, f"{record},,"]).encode()
    try:
        return wheel_name(version), _zipped(members)
    except ValueError as error:  # an archive that is left within a member cannot be closed
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


def _zipped(members: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(name, _OLDEST)
            member.external_attr = 0o644 << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
    return packed.getvalue()


def _sources() -> Iterator[tuple[str, bytes]]:
    """Yield path in the wheel and content of every file of the packages."""
    for name in (*PACKAGES, *MODULES):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        origin = Path(spec.origin)
        if name in MODULES:
            yield origin.name, origin.read_bytes()
            continue
        root = origin.parent
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            if path.is_file() and not _LEFT_OUT & set(inside.parts):
                yield f"{name}/{inside.as_posix()}", path.read_bytes()


def _digest(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
