"""Open any artifact as an engine and run it: from photographs to boxes.

`detect` is not in `export.detections`, which engines are built on: they return its `Candidates`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import InputSpec, Manifest, NmsSpec, read_manifest
from export.backends import BACKENDS
from export.backends.interface import Engine, EngineSettings
from export.detections import Candidates, Detections, select_detections, to_photograph
from export.errors import ExportError
from export.pictures.images import Letterbox, letterbox, open_photograph, to_input

__all__ = [
    "Engine",
    "Placed",
    "detect",
    "detect_on_canvases",
    "detect_placed",
    "in_photographs",
    "open_engine",
    "place",
    "place_file",
]


def open_engine(
    path: Path, threads: int | None = None, device: str = "cpu", *, cuda_graph: bool = False
) -> Engine:
    """Return the engine that the artifact's sidecar asks for; it loads on enter.

    Args:
        path: the artifact; its sidecar has the same name with `.json`.
        threads: CPU threads; None takes the physical cores this process may use.
        device: device that ONNX Runtime runs on; a TensorRT engine runs on its GPU.
        cuda_graph: whether ONNX Runtime replays a CUDA graph; a TensorRT engine does where it can.

    Raises:
        ExportError: the artifact or its sidecar is missing or broken, or no backend here opens it.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such model file")
    manifest = read_manifest(path.with_suffix(".json"))
    backend = BACKENDS.get(manifest.backend)
    if backend is None:
        raise ExportError(
            f"{path}: made for {manifest.backend} {manifest.precision}; this version opens "
            f"{', '.join(BACKENDS)}"
        )
    settings = EngineSettings(threads=threads, device=device, cuda_graph=cuda_graph)
    return backend.open(path, settings)


@dataclass(frozen=True)
class Placed:
    """A photograph on the canvas that a detector takes.

    Attributes:
        canvas: (height, width, 3) RGB of the input's size.
        letterbox: where the photograph lies on it.
        width: photograph's width in pixels.
        height: photograph's height in pixels.
    """

    canvas: NDArray[np.uint8]
    letterbox: Letterbox
    width: int
    height: int


def detect(
    engine: Engine, photographs: Sequence[NDArray[np.uint8]], score_threshold: float
) -> list[Detections]:
    """Return the detections on each (H, W, 3) RGB photograph, in its own pixels.

    All photographs go through the engine in one call, so a graph with a fixed batch takes as many
    as that.

    Raises:
        ExportError: the engine is closed, or does not take as many photographs at once.
    """
    spec = engine.manifest.input
    return detect_placed(engine, [place(pixels, spec) for pixels in photographs], score_threshold)


def place(pixels: NDArray[np.uint8], spec: InputSpec) -> Placed:
    """Letterbox one (H, W, 3) RGB photograph into the input's size."""
    canvas, frame = letterbox(pixels, spec.height, spec.width, spec.fill)
    return Placed(canvas, frame, pixels.shape[1], pixels.shape[0])


def place_file(path: Path, spec: InputSpec) -> Placed:
    """Letterbox the photograph of a file.

    Raises:
        DataError: the file is missing, or no picture that can be read.
    """
    return place(open_photograph(path, spec.bit_depth), spec)


def detect_placed(
    engine: Engine, placed: Sequence[Placed], score_threshold: float
) -> list[Detections]:
    """Return the detections on each photograph, in its own pixels."""
    manifest = engine.manifest
    found = engine.candidates(to_input([one.canvas for one in placed], manifest.input))
    _require_finite(found, manifest)
    return in_photographs(found, placed, manifest.nms, score_threshold)


def in_photographs(
    candidates: Candidates, placed: Sequence[Placed], nms: NmsSpec, score_threshold: float
) -> list[Detections]:
    """Select each photograph's detections and move them into its own pixels."""
    return [
        to_photograph(found, one.letterbox, one.width, one.height)
        for found, one in zip(
            select_detections(candidates, nms, score_threshold), placed, strict=True
        )
    ]


def detect_on_canvases(
    engine: Engine, canvases: Sequence[NDArray[np.uint8]], score_threshold: float
) -> list[Detections]:
    """Return the detections on each letterboxed canvas, in input pixels."""
    manifest = engine.manifest
    found = engine.candidates(to_input(canvases, manifest.input))
    _require_finite(found, manifest)
    return select_detections(found, manifest.nms, score_threshold)


def _require_finite(found: Candidates, manifest: Manifest) -> None:
    """Refuse NaN, which is above no threshold: it would be taken for an empty picture."""
    if np.isfinite(found.scores).all() and np.isfinite(found.boxes).all():
        return
    raise ExportError(
        f"{manifest.artifact or manifest.model} ({manifest.backend}, {manifest.precision}): gives "
        "boxes or scores that are not finite; its weights or its precision are broken: export "
        "it again from a model that has not diverged, or use fp32"
    )
