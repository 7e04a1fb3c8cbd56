"""How many megabytes an artifact takes on the device."""

from pathlib import Path

from export.errors import ExportError


def size_mb(artifact: Path) -> float:
    """Size of one file in megabytes (1e6 bytes).

    Raises:
        ExportError: there is no such file.
    """
    if not artifact.is_file():
        raise ExportError(f"{artifact}: no such file; export the model first")
    return artifact.stat().st_size / 1e6
