"""Open an ONNX file that any package made, and see what it takes and gives."""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.teaching.classes import At
from compress.teaching.formats.graph import Graph, Outputs, Pixels
from export.artifact.manifest import read_manifest
from export.backends.onnxruntime.cpu import usable_cores
from export.backends.onnxruntime.devices import Device
from export.backends.onnxruntime.providers import (
    LOG_ERRORS,
    LOG_NOTHING,
    open_session,
    provider_settings,
    require_provider,
    run_session,
)
from export.errors import ExportError, RecipeError
from export.optional import require
from export.pictures.images import Images

MOST_PIXELS = 2**27  # of a pass; in memory as often as the graph has maps
_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}

# Further inputs that some exports have, by name: from the shape that the graph states and the
# number, height and width of the pictures to what is given.
_FURTHER: dict[str, Callable[[list[Any], int, int, int], NDArray[np.generic]]] = {
    "orig_target_sizes": lambda _, count, height, width: np.tile(
        np.array([[width, height]], dtype=np.int64), (count, 1)
    ),
    "pixel_mask": lambda stated, count, height, width: np.ones(
        (
            count,
            *(
                given if isinstance(given, int) else side
                for given, side in zip(stated[1:], (height, width), strict=True)
            ),
        ),
        dtype=np.int64,
    ),
}


@dataclass(frozen=True)
class OpenGraph:
    """A loaded ONNX file.

    Attributes:
        graph: what it takes and gives.
        session: ONNX Runtime's session.
        kind: type of the numbers that it takes.
        channels_last: whether it takes (B, H, W, 3) in place of (B, 3, H, W).
        batch: pictures of a pass; None for any number.
        further: shapes of its other inputs, by name, as the file states them.
    """

    graph: Graph
    session: Any
    kind: type[np.generic]
    channels_last: bool
    batch: int | None
    further: Mapping[str, list[Any]]

    def run(self, tensor: NDArray[np.generic]) -> Outputs:
        """Return the outputs for pictures in the graph's own form, by name.

        Raises:
            ExportError: ONNX Runtime failed.
        """
        count, height, width = len(tensor), self.graph.height, self.graph.width
        given = {self.graph.image: tensor}
        for name, shape in self.further.items():
            given[name] = _FURTHER[name](shape, count, height, width)
        names = [output.name for output in self.session.get_outputs()]
        found = run_session(self.graph.path, self.session, names, given)
        return dict(zip(names, found, strict=True))

    def tensor(self, images: Images, pixels: Pixels) -> NDArray[np.generic]:
        """Return (B, 3, H, W) RGB in 0..1 in the form that the graph takes."""
        colors = images[:, ::-1] if pixels.color == "bgr" else images
        mean, std = (
            np.array(values, dtype=np.float32).reshape(1, 3, 1, 1)
            for values in (pixels.mean, pixels.std)
        )
        scaled = (colors * np.float32(pixels.range) - mean) / std
        if self.channels_last:
            scaled = scaled.transpose(0, 2, 3, 1)
        if self.kind is np.uint8:
            scaled = np.rint(scaled).clip(0, 255)
        return np.ascontiguousarray(scaled.astype(self.kind))


def own_graph(path: Path, named: int | None) -> Graph | str:
    """Return what the sidecar of an artifact of slimdet says, or why there is none."""
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return f"no sidecar {sidecar.name} beside it"
    try:
        manifest = read_manifest(sidecar)
    except ExportError as error:
        return str(error)
    spec = manifest.input
    return Graph(
        path, spec.name, (spec.name,), spec.height, spec.width, {}, named=named, manifest=manifest
    )


def open_graph(
    path: Path,
    device: Device,
    *,
    size: tuple[int, int] | None,
    named: int | None,
    sidecar: str,
    at: At,
) -> OpenGraph:
    """Load an ONNX file and pass one grey picture through it.

    Args:
        path: the file.
        device: device that ONNX Runtime runs on.
        size: height and width of its pictures, where the file leaves them open.
        named: how many class names the recipe gives.
        sidecar: why it is no artifact of slimdet.
        at: gives the place of one of the settings, for messages.

    Raises:
        ExportError: ONNX Runtime cannot load or run it, or its inputs are not those of a detector
            that is known here.
        RecipeError: there is no such file, or its pictures' size is open or differs from the one
            given.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; {at('model')} names an ONNX file")
    runtime = require("onnxruntime", extra="onnxruntime", purpose=f"Running {path.name}")
    runtime.set_default_logger_severity(LOG_ERRORS)
    require_provider(path, device, runtime.get_available_providers())
    if device != "cpu" and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = LOG_NOTHING
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # pictures are decoded
    providers = provider_settings(device, path.parent, None)
    # by its path, since weights may lie in a file beside it
    session = open_session(runtime, path, device, str(path), options, providers)
    image, further = _inputs(path, session)
    channels_last = image.shape[1] != 3
    height, width = _size(path, session, image, size, channels_last, at)
    batch = image.shape[0] if isinstance(image.shape[0], int) else None
    if batch == 0 or (batch or 1) * height * width > MOST_PIXELS:
        raise ExportError(
            f"{path}: takes {batch if batch is not None else 1} pictures of {height} x {width} at "
            f"once; expected at least 1, and at most {MOST_PIXELS} pixels in all. Export it with a "
            "batch of 1"
        )
    names = (image.name, *further)
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    graph = Graph(path, image.name, names, height, width, {}, metadata, named, sidecar=sidecar)
    kind = _TYPES[image.type]
    opened = OpenGraph(graph, session, kind, channels_last, batch, further)
    grey = np.full((batch or 1, 3, height, width), 0.5, dtype=np.float32)
    outputs = opened.run(opened.tensor(grey, Pixels(range=255 if kind is np.uint8 else 1)))
    seen = Graph(path, image.name, names, height, width, outputs, metadata, named, sidecar=sidecar)
    return OpenGraph(seen, session, kind, channels_last, batch, further)


def _inputs(path: Path, session: Any) -> tuple[Any, dict[str, list[Any]]]:
    """Return the input that takes pictures, and the shapes of the others by name."""
    inputs = session.get_inputs()
    listed = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
    images = [
        one
        for one in inputs
        if len(one.shape) == 4 and 3 in (one.shape[1], one.shape[3]) and one.type in _TYPES
    ]
    if len(images) != 1:
        raise ExportError(
            f"{path}: takes {listed}; expected one input of pictures, (B, 3, H, W) or (B, H, W, 3) "
            "of floats or bytes. Export the detector with such an input"
        )
    further = {one.name: list(one.shape) for one in inputs if one is not images[0]}
    unknown = [name for name in further if name not in _FURTHER]
    if unknown:
        raise ExportError(
            f"{path}: takes {listed}; no known format states what {unknown[0]} is to be given "
            f"(known besides the pictures: {', '.join(_FURTHER)}). Export the detector without it"
        )
    return images[0], further


def _size(
    path: Path,
    session: Any,
    image: Any,
    given: tuple[int, int] | None,
    channels_last: bool,
    at: At,
) -> tuple[int, int]:
    """Return height and width of the pictures."""
    stated = image.shape[1:3] if channels_last else image.shape[2:]
    fixed = tuple(one if isinstance(one, int) else None for one in stated)
    usual = given or _said_size(session.get_modelmeta().custom_metadata_map)
    sides = [one or (usual[axis] if usual else 0) for axis, one in enumerate(fixed)]
    if 0 in sides:
        raise RecipeError(
            f"{at()}: {path} takes pictures of any size; set image_size to the one it was "
            "trained with"
        )
    height, width = sides
    if given is not None and given != (height, width):
        raise RecipeError(
            f"{at('image_size')}: {given[0]} x {given[1]} (height x width), and {path} takes "
            f"pictures of {height} x {width}; remove it"
        )
    return height, width


def _said_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the size of Ultralytics' exports, `[640, 640]`, which others leave open."""
    try:
        height, width = ast.literal_eval(metadata["imgsz"])
    except (KeyError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return (height, width) if type(height) is type(width) is int else None
