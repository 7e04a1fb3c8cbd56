"""Read an artifact's sidecar, and check that the file is the one it describes."""

from pathlib import Path

from export.artifact.manifest import Manifest, file_sha256, read_manifest
from export.artifact.stored_numbers import broken_number
from export.errors import ExportError


def read_artifact(path: Path, precision: str) -> Manifest:
    """Return the sidecar of the artifact at `path`, which is expected to be in `precision`.

    Raises:
        ExportError: the sidecar is missing or broken, or names another precision.
    """
    manifest = read_manifest(path.with_suffix(".json"))
    if manifest.precision != precision:
        raise ExportError(
            f"{path}: its sidecar says {manifest.precision}, and {precision} was asked for; "
            f"open it with precision: {manifest.precision}"
        )
    return manifest


def verify_artifact(path: Path, manifest: Manifest) -> None:
    """Make sure that the file is the one its sidecar describes.

    Raises:
        ExportError: it is missing, or has another SHA-256.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such model file")
    if manifest.sha256 is None:
        raise ExportError(f"{path}: its sidecar states no sha256; export the model again")
    found = file_sha256(path)
    if found != manifest.sha256:
        raise ExportError(
            f"{path}: sha256 {found[:12]}…, and its sidecar describes {manifest.sha256[:12]}…; "
            "the two do not belong together: copy both again from one export"
        )


def verify_numbers(path: Path, content: bytes) -> None:
    """Refuse an ONNX file with numbers that no working model holds.

    Args:
        path: its path, for the message.
        content: its bytes.

    Raises:
        ExportError: NaN, infinite weights, scales that are not positive, or weights in another
            file.
    """
    said = broken_number(content)
    if said is not None:
        raise ExportError(
            f"{path}: {said}; the model is broken: export it again, from one that has not diverged"
        )
