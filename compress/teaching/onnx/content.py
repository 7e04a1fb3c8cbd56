"""The hash of an ONNX file with the weights that lie in files beside it."""

import hashlib
from pathlib import Path

from export.artifact.manifest import file_sha256
from export.errors import ExportError
from export.optional import require


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of an ONNX file; of one with further files, that of all their hashes.

    Raises:
        ExportError: a file of weights that it names is missing.
        MissingDependencyError: onnx is not installed.
    """
    onnx = require("onnx", extra="train", purpose=f"Finding the weights of {path.name}")
    graph = onnx.load(path, load_external_data=False).graph
    beside = sorted(
        {
            entry.value
            for tensor in graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
    )
    own = file_sha256(path)
    if not beside:
        return own
    lines = [own]
    for name in beside:
        file = path.parent / name
        if not file.is_file():
            raise ExportError(f"{file}: no such file; {path} has weights in it")
        lines.append(f"{name} {file_sha256(file)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
