"""Checkpoints of a run in progress: atomic, and nothing but tensors, numbers and text."""

import os
from pathlib import Path
from typing import Any

import torch

from export.errors import ToolkitError


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` to `path`, whole or not at all; the last good file stays until then."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise ToolkitError(
            f"{path}: the checkpoint cannot be written ({error}). The one before is kept; make "
            "room on the disk and run the same command again to go on from it"
        ) from error


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Read what `save_checkpoint` wrote; None if there is none. Only tensors are loaded.

    Raises:
        ToolkitError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ToolkitError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}); delete it to begin this "
            "training again"
        ) from error
    return state
