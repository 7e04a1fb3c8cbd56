"""Sidecars of small models for tests of what reads them."""

from collections.abc import Sequence
from pathlib import Path

from export.artifact.manifest import InputSpec, Manifest, file_sha256


def make_manifest(
    family: str,
    size: tuple[int, int],
    classes: Sequence[str] = ("a", "b"),
    *,
    category_ids: Sequence[int] | None = None,
    backend: str = "onnxruntime",
    dynamic_batch: bool = False,
    path: Path | None = None,
) -> Manifest:
    """Describe a student of one weight in fp32.

    Args:
        family: of the detector.
        size: height and width of its input.
        classes: names in the order of its labels.
        category_ids: of the classes; from 1 if None.
        backend: that runs it.
        dynamic_batch: whether it takes any number of pictures.
        path: of its file, whose name and hash are stated.
    """
    return Manifest(
        model="student",
        family=family,
        backend=backend,
        precision="fp32",
        artifact=None if path is None else path.name,
        sha256=None if path is None else file_sha256(path),
        parameters=1,
        input=InputSpec(height=size[0], width=size[1], dynamic_batch=dynamic_batch),
        classes=tuple(classes),
        category_ids=tuple(category_ids or range(1, len(classes) + 1)),
    )
