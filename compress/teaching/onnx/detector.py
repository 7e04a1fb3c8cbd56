"""A detector of any package, as an ONNX file, with the interface of an engine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import Self

from compress.teaching.classes import At
from compress.teaching.config import OnnxTeacher
from compress.teaching.formats import FORMATS
from compress.teaching.formats.graph import Fit, Graph, Pixels
from compress.teaching.onnx.content import content_sha256
from compress.teaching.onnx.graph_file import OpenGraph, open_graph, own_graph
from export.artifact.manifest import InputSpec, Manifest, NmsSpec
from export.backends.onnxruntime.devices import Device
from export.detections import Candidates
from export.engine import Engine, Placed, open_engine, place
from export.errors import ExportError, RecipeError, counted
from export.pictures.images import Images, Letterbox

OWN = "slimdet"  # the format that a sidecar states


@dataclass(frozen=True)
class BoxDetector:
    """A detector that finds the boxes of photographs: an opened file, or a network of this package.

    Attributes:
        engine: engine of the network; enter it before it runs.
        format: name of the file's format, or `network`.
        why: what was found in the file.
        pixels: how a picture becomes its input.
        classes: names in the order of its labels.
    """

    engine: Engine
    format: str
    why: str
    pixels: Pixels
    classes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Say what was found and how it is read."""
        manifest = self.engine.manifest
        size = f"{manifest.input.width} x {manifest.input.height}"
        nms = manifest.nms
        boxes = f"NMS at an IoU of {nms.iou:g}" if nms.mode == "host" else "no further NMS"
        return [
            f"format {self.format}: {self.why}",
            f"{counted(len(self.classes), 'class', 'classes')}; pictures of {size}: "
            f"{self.pixels.words()}; {boxes}",
        ]

    def place(self, photograph: NDArray[np.uint8]) -> Placed:
        """Put a (H, W, 3) RGB photograph on the canvas that the detector takes."""
        spec = self.engine.manifest.input
        if self.pixels.resize == "letterbox":
            return place(photograph, spec)
        height, width = photograph.shape[:2]
        scaled = Image.fromarray(photograph).resize(
            (spec.width, spec.height), Image.Resampling.BILINEAR
        )
        frame = Letterbox(spec.width / width, spec.height / height, spec.width, spec.height)
        return Placed(np.asarray(scaled), frame, width, height)


class GraphEngine:
    """An ONNX file of another package as an engine; it is loaded when it is made."""

    def __init__(
        self, opened: OpenGraph, fit: Fit, pixels: Pixels, manifest: Manifest, device: Device
    ) -> None:
        self._opened, self._fit, self._pixels = opened, fit, pixels
        self._manifest, self._device = manifest, device

    @property
    def manifest(self) -> Manifest:
        """Input size, classes and NMS settings."""
        return self._manifest

    @property
    def device(self) -> str:
        """Where it computes."""
        return self._device

    def candidates(self, images: Images) -> Candidates:
        """Return the boxes for (B, 3, H, W) RGB in 0..1.

        Raises:
            ExportError: a label has no class name, or ONNX Runtime failed.
        """
        size = self._opened.batch or len(images)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            lacking = size - len(part)
            if lacking:  # a fixed batch takes no fewer
                part = np.concatenate([part, np.repeat(part[-1:], lacking, axis=0)])
            found = self._fit.decode(self._opened.run(self._opened.tensor(part, self._pixels)))
            if len(found.scores) != size:
                raise ExportError(
                    f"{self._opened.graph.path}: gives boxes of "
                    f"{counted(len(found.scores), 'picture')} for {size}; export it again"
                )
            kept = size - lacking
            parts.append((found.boxes[:kept], found.scores[:kept], found.labels[:kept]))
        boxes, scores, labels = _padded(parts)
        self._check_labels(scores, labels)
        return Candidates(boxes, scores, labels)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the memory goes with the object."""

    def _check_labels(self, scores: NDArray[np.float32], labels: NDArray[np.int32]) -> None:
        counted_in = scores > 0
        largest = int(labels[counted_in].max(initial=-1))
        if largest >= len(self._manifest.classes):
            raise ExportError(
                f"{self._opened.graph.path}: gives the label {largest}, and "
                f"{counted(len(self._manifest.classes), 'class name is', 'class names are')} "
                "given, for labels from 0; give all of them, in the order of its labels"
            )


def _padded(
    parts: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Join passes that may have given unequal numbers of boxes; padding has the score -1."""
    most = max(scores.shape[1] for _, scores, _ in parts)
    columns: list[list[NDArray[np.generic]]] = [[], [], []]
    for boxes, scores, labels in parts:
        more = (0, most - scores.shape[1])
        columns[0].append(np.pad(boxes, ((0, 0), more, (0, 0))))
        columns[1].append(np.pad(scores, ((0, 0), more), constant_values=-1))
        columns[2].append(np.pad(labels, ((0, 0), more)))
    boxes, scores, labels = (np.concatenate(column) for column in columns)
    return boxes, scores, labels


def open_detector(config: OnnxTeacher, device: Device, at: At) -> BoxDetector:
    """Load the file of a teacher, find its format and check that all it needs is known.

    Args:
        config: settings.
        device: device that ONNX Runtime runs on.
        at: gives the place of one of the settings, for messages.

    Raises:
        ExportError: the file cannot be loaded, or no format or several read it.
        RecipeError: there is no such file, or a setting is missing or contradicts it.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    path, named = config.model, len(config.names) or None
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; {at('model')} names an ONNX file")
    own = own_graph(path, named) if config.format in (None, OWN) else "another format was asked for"
    opened: OpenGraph | None = None
    if isinstance(own, str):
        if config.format == OWN:
            raise ExportError(f"{path}: is no artifact of slimdet: {own}")
        opened = open_graph(path, device, size=config.input_size, named=named, sidecar=own, at=at)
    graph = own if isinstance(own, Graph) else opened.graph if opened else None
    assert graph is not None
    name, fit = choose_format(graph, config.format, at)
    classes = _classes(fit, config, path, at)
    if fit.manifest is not None or opened is None:
        _refuse_for_own(config, at)
        engine: Engine = open_engine(path, device=device)
        return BoxDetector(engine, name, fit.why, fit.pixels, classes)
    pixels = _pixels(fit, config, opened, at)
    nms = fit.nms if config.nms_iou is None else fit.nms.model_copy(update={"iou": config.nms_iou})
    manifest = _manifest(graph, name, classes, pixels, nms, config)
    return BoxDetector(
        GraphEngine(opened, fit, pixels, manifest, device), name, fit.why, pixels, classes
    )


def choose_format(graph: Graph, asked: str | None, at: At) -> tuple[str, Fit]:
    """Return the name of the one format that reads a graph, and how it does.

    Raises:
        ExportError: the format that was asked for does not read it; or none does, or several.
        RecipeError: it would be read, but has another number of classes than names are given.
    """
    answers = {n: form(graph) for n, form in FORMATS.items() if asked in (None, n)}
    fits = _fits(answers)
    if len(fits) == 1:
        return next(iter(fits.items()))
    if not fits and graph.named is not None:
        _refuse_number_of_names(graph, asked, at)
    found = f"{graph.path}: found {graph.words()}"
    if len(fits) > 1:
        read = "; ".join(f"{name}: {fit.why}" for name, fit in fits.items())
        raise ExportError(
            f"{found}, which {counted(len(fits), 'format reads', 'formats read')} ({read}). "
            f"Name the right one with {at('format')}, or give {at('classes')}, whose number may "
            "decide"
        )
    if asked is not None:
        raise ExportError(f"{found}; {at('format')}: {asked} does not read it: {answers[asked]}")
    whys = "; ".join(f"{name}: {why}" for name, why in answers.items())
    raise ExportError(
        f"{found}, which no format reads. The formats and why not: {whys}. Export the detector in "
        "one of these forms, or run it elsewhere and give its COCO results as type: predictions"
    )


def _fits(answers: Mapping[str, Fit | str]) -> dict[str, Fit]:
    return {name: answer for name, answer in answers.items() if isinstance(answer, Fit)}


def _refuse_number_of_names(graph: Graph, asked: str | None, at: At) -> None:
    """Refuse class names of another number than the graph's classes, where it is read without."""
    unnamed = replace(graph, named=None)
    fits = _fits({n: form(unnamed) for n, form in FORMATS.items() if asked in (None, n)})
    if fits:
        read = " or ".join(
            f"{counted(fit.num_classes or 0, 'class', 'classes')} ({name}: {fit.why})"
            for name, fit in fits.items()
        )
        raise RecipeError(
            f"{at('classes')}: {counted(graph.named or 0, 'name')}, and {graph.path} has {read}; "
            "list all of its classes, in the order of its labels"
        )


def _classes(fit: Fit, config: OnnxTeacher, path: Path, at: At) -> tuple[str, ...]:
    names = config.names or fit.classes
    if not names:
        count = "" if fit.num_classes is None else f" of its {fit.num_classes} classes"
        raise RecipeError(
            f"{at('classes')}: {path} states no names{count}; list them in the order of its labels "
            "(coco stands for COCO's 80, coco91 for those by category id)"
        )
    if fit.num_classes is not None and len(names) != fit.num_classes:
        raise RecipeError(
            f"{at('classes')}: {counted(len(names), 'name')}, and {path} has "
            f"{counted(fit.num_classes, 'class', 'classes')} ({fit.why})"
        )
    if config.names and fit.classes and config.names != fit.classes:
        differs = next(
            index
            for index, pair in enumerate(zip(names, fit.classes, strict=True))
            if pair[0] != pair[1]
        )
        raise RecipeError(
            f"{at('classes')}: {path} states other names: label {differs} is "
            f"{fit.classes[differs]!r} there, {names[differs]!r} in the recipe; remove classes, "
            "and rename with class_map"
        )
    return names


def _refuse_for_own(config: OnnxTeacher, at: At) -> None:
    given = [key for key in ("pixels", "image_size", "nms_iou") if getattr(config, key) is not None]
    if given:
        raise RecipeError(
            f"{at(given[0])}: {config.model} is an artifact of slimdet, and its sidecar states "
            "this; remove the key"
        )


def _pixels(fit: Fit, config: OnnxTeacher, opened: OpenGraph, at: At) -> Pixels:
    """Return the format's usual preprocessing with what the recipe changes."""
    given = {} if config.pixels is None else config.pixels.model_dump(exclude_unset=True)
    pixels = fit.pixels.model_copy(update=given)
    if opened.kind is np.uint8:
        plain = Pixels(resize=pixels.resize, fill=pixels.fill, color=pixels.color, range=255)
        if "mean" in given or "std" in given or given.get("range") == 1:
            raise RecipeError(
                f"{at('pixels')}: {config.model} takes bytes of 0..255, so range, mean and std "
                "cannot be set"
            )
        return plain
    return pixels


def _manifest(
    graph: Graph,
    format_name: str,
    classes: tuple[str, ...],
    pixels: Pixels,
    nms: NmsSpec,
    config: OnnxTeacher,
) -> Manifest:
    return Manifest(
        model="teacher",
        family=format_name,
        backend="onnxruntime",
        precision="fp32",
        artifact=graph.path.name,
        sha256=content_sha256(graph.path),
        parameters=0,
        input=InputSpec(
            name=graph.image,
            height=graph.height,
            width=graph.width,
            fill=pixels.fill,
            dynamic_batch=True,
        ),
        classes=classes,
        category_ids=tuple(range(len(classes))),
        nms=nms.model_copy(update={"max_detections": config.max_boxes}),
        evaluation_score_threshold=config.score_threshold,
    )
