"""Exports of Ultralytics' package: YOLOv8 to YOLO26 and RT-DETR, with and without NMS inside."""

import ast

import numpy as np

from compress.teaching.formats.graph import (
    NMS,
    NO_NMS,
    Fit,
    Floats,
    Graph,
    Outputs,
    Pixels,
    are_scores,
    best_pairs,
    corners,
    levels_of,
)
from export.detections import Candidates


def read(graph: Graph) -> Fit | str:
    """Take one output: 4 + K rows for each cell, or at most some hundred rows of 6 columns."""
    task = graph.metadata.get("task", "detect")
    if task != "detect":
        return f"made by Ultralytics for the task {task!r}, not detect"
    only = graph.only_output()
    if isinstance(only, str):
        return only
    name, (rows, columns) = only
    names = _names(graph)
    known = len(names) or graph.named
    head = graph.metadata.get("head", "") + graph.metadata.get("description", "").lower()
    signed = graph.metadata.get("author") == "Ultralytics"
    if "RTDETR" in head or "rtdetr" in head:
        return _of_rtdetr(graph, name, names, columns)
    strides = levels_of(graph, columns)
    if strides is not None and rows > 4 and known in (None, rows - 4):
        if not are_scores(graph.floats(name)[:, 4:]):
            return "4 + K rows for each cell, but the scores are not in 0..1"
        return Fit(
            f"{rows} rows (a box and {rows - 4} classes) for each of the {columns} cells of "
            f"strides {', '.join(map(str, strides))}",
            rows - 4,
            Pixels(),
            NMS.model_copy(update={"iou": 0.7}),
            lambda outputs: _of_cells(outputs, name),
            names,
        )
    if columns == 6 and (signed or known is not None):
        return Fit(
            f"{rows} rows of corners, score and class: the best boxes, chosen inside",
            known,
            Pixels(),
            NO_NMS,
            lambda outputs: _of_rows(outputs, name),
            names,
        )
    return (
        f"an output of {rows} x {columns}; it has 4 + K rows and a column for each cell of strides "
        "8, 16, 32, or 6 columns"
    )


def _of_rtdetr(graph: Graph, name: str, names: tuple[str, ...], columns: int) -> Fit | str:
    known = len(names) or graph.named
    chosen = columns == 6 and graph.metadata.get("head") == "RTDETRDecoder"
    if not chosen and known not in (None, columns - 4):
        return f"RT-DETR with {columns} columns, and {known} classes need {4 + (known or 0)}"
    size = np.array([graph.width, graph.height] * 2, dtype=np.float32)

    def decode(outputs: Outputs) -> Candidates:
        found = outputs[name].astype(np.float32, copy=False)
        boxes = corners(found[..., :4]) * size
        if chosen:
            return Candidates(boxes, found[..., 4], found[..., 5].astype(np.int32))
        return best_pairs(boxes, found[..., 4:])

    return Fit(
        f"RT-DETR: {'chosen boxes, score and class' if chosen else 'boxes and class scores'}, "
        "in shares of the input",
        known if chosen else columns - 4,
        Pixels(resize="stretch"),
        NO_NMS,
        decode,
        names,
    )


def _of_cells(outputs: Outputs, name: str) -> Candidates:
    found: Floats = outputs[name].astype(np.float32, copy=False).transpose(0, 2, 1)
    return best_pairs(corners(found[..., :4]), found[..., 4:])


def _of_rows(outputs: Outputs, name: str) -> Candidates:
    found = outputs[name].astype(np.float32, copy=False)
    return Candidates(found[..., :4], found[..., 4], found[..., 5].astype(np.int32))


def _names(graph: Graph) -> tuple[str, ...]:
    """Return the class names of the file, which writes them as Python does: `{0: 'person'}`."""
    try:
        said = ast.literal_eval(graph.metadata.get("names", "{}"))
        return tuple(str(said[index]) for index in range(len(said)))
    except (ValueError, SyntaxError, LookupError, TypeError, MemoryError, RecursionError):
        return ()
