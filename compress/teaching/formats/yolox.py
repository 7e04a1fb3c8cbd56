"""YOLOX, https://github.com/Megvii-BaseDetection/YOLOX: box, objectness and K scores per cell."""

import numpy as np

from compress.teaching.formats.graph import (
    NMS,
    Fit,
    Graph,
    Outputs,
    Pixels,
    are_scores,
    centres,
    levels_of,
    objectness_pairs,
)
from export.detections import Candidates


def read(graph: Graph) -> Fit | str:
    """Take one output with a row for each cell and 5 + K columns."""
    only = graph.only_output()
    if isinstance(only, str):
        return only
    name, (rows, columns) = only
    strides = levels_of(graph, rows)
    if strides is None or columns < 6 or graph.named not in (None, columns - 5):
        return f"an output of {rows} x {columns}; it has a row for each cell and 5 + K columns" + (
            f" (K is {graph.named} by the class names given)" if graph.named else ""
        )
    first = graph.floats(name)
    if not are_scores(first[..., 4:]):
        return "a row for each cell, but the scores are not in 0..1"
    places, steps = centres(graph, strides, 0.0)
    # centres in pixels reach the far side of the picture; offsets in a cell stay near 0
    decoded = bool(first[..., 0].max(initial=0.0) > graph.width / 2)

    def decode(outputs: Outputs) -> Candidates:
        found = outputs[name].astype(np.float32, copy=False)
        boxes = found[..., :4]
        if not decoded:
            sides = np.exp(np.minimum(boxes[..., 2:], 20)) * steps
            boxes = np.concatenate([boxes[..., :2] * steps + places, sides], axis=-1)
        return objectness_pairs(boxes, found)

    return Fit(
        f"box{' in pixels' if decoded else ' relative to its cell'}, objectness and "
        f"{columns - 5} classes for each of the {rows} cells of strides "
        f"{', '.join(map(str, strides))}",
        columns - 5,
        Pixels(color="bgr", range=255),
        NMS.model_copy(update={"iou": 0.65}),
        decode,
    )
