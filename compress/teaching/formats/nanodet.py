"""NanoDet and NanoDet-Plus: class scores and bins of the distances to the four edges per cell.

NanoDet, https://github.com/RangiLyu/nanodet: a distance is the mean of a softmax over its bins, in
strides (GFL). NanoDet predicts from the middle of a cell, NanoDet-Plus (4 levels) from its corner.
"""

from collections.abc import Sequence

import numpy as np

from compress.teaching.formats.graph import (
    NMS,
    Fit,
    Floats,
    Graph,
    Outputs,
    Pixels,
    are_scores,
    best_pairs,
    cells,
    centres,
    levels_of,
    softmax,
)
from export.detections import Candidates

_EDGES = 4 * 8  # the bins of its published models: reg_max 7
_PIXELS = Pixels(
    color="bgr", range=255, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395)
)


def read(graph: Graph) -> Fit | str:
    """Take one output of K + 32 columns, or two of each level: K columns and 32."""
    if any(output.ndim not in (2, 3) for output in graph.outputs.values()):
        return "outputs of other than 2 or 3 axes"
    if len(graph.outputs) == 1:
        return _of_one(graph)
    pairs = _pairs(graph)
    if isinstance(pairs, str):
        return pairs
    strides, scores, edges = pairs
    classes = graph.outputs[scores[0]].shape[-1]

    def decode(outputs: Outputs) -> Candidates:
        joined = [
            np.concatenate([_rows(outputs, name) for name in names], axis=1)
            for names in (scores, edges)
        ]
        return _decoded(graph, strides, *joined)

    return Fit(
        f"{len(strides)} pairs of outputs: scores of {classes} classes and 4 x 8 bins for each "
        f"cell of strides {', '.join(map(str, strides))}",
        classes,
        _PIXELS,
        NMS,
        decode,
    )


def _of_one(graph: Graph) -> Fit | str:
    ((name, output),) = graph.outputs.items()
    rows, columns = output.shape[-2:]
    strides, classes = levels_of(graph, rows), columns - _EDGES
    if strides is None or classes < 1 or graph.named not in (None, classes):
        return f"an output of {rows} x {columns}; it has a row for each cell and K + 32 columns" + (
            f" (K is {graph.named} by the class names given)" if graph.named else ""
        )
    if not are_scores(_rows(graph.outputs, name)[..., :classes]):
        return "a row for each cell, but the first K columns are not in 0..1"

    def decode(outputs: Outputs) -> Candidates:
        found = _rows(outputs, name)
        return _decoded(graph, strides, found[..., :classes], found[..., classes:])

    return Fit(
        f"scores of {classes} classes and 4 x 8 bins for each of the {rows} cells of strides "
        f"{', '.join(map(str, strides))}",
        classes,
        _PIXELS,
        NMS,
        decode,
    )


def _pairs(graph: Graph) -> tuple[tuple[int, ...], list[str], list[str]] | str:
    """Return strides, and for each level the names of its scores and of its bins."""
    names, count = list(graph.outputs), len(graph.outputs) // 2
    if len(names) % 2 or not 3 <= count <= 4:
        return f"{len(names)} outputs, and it has 1, 6 or 8"
    strides = (8, 16, 32, 64)[:count]
    scores: list[str] = []
    edges: list[str] = []
    for places in cells(graph, strides):
        level = [name for name in names if graph.outputs[name].shape[-2] == places]
        bins = [name for name in level if graph.outputs[name].shape[-1] == _EDGES]
        if len(level) != 2 or not bins:
            return (
                f"no two outputs of {places} rows, one of 32 columns, which it has for the cells "
                "of each level"
            )
        # with 32 classes both have 32 columns: scores then come first, as in its exports
        edges.append(bins[-1])
        scores.append(next(name for name in level if name != bins[-1]))
    widths = {graph.outputs[name].shape[-1] for name in scores}
    if len(widths) > 1:
        return f"levels of {sorted(widths)} classes"
    if graph.named not in (None, *widths):
        return f"{widths.pop()} classes, and {graph.named} class names are given"
    if not all(are_scores(_rows(graph.outputs, name)) for name in scores):
        return "class outputs that are not in 0..1"
    return strides, scores, edges


def _decoded(graph: Graph, strides: Sequence[int], scores: Floats, edges: Floats) -> Candidates:
    places, steps = centres(graph, strides, 0.0 if len(strides) == 4 else 0.5)
    batch, count = scores.shape[:2]
    shares = softmax(edges.reshape(batch, count, 4, -1))
    distances = shares @ np.arange(shares.shape[-1], dtype=np.float32) * steps
    boxes = np.concatenate([places - distances[..., :2], places + distances[..., 2:]], axis=-1)
    limits = np.array([graph.width, graph.height] * 2, dtype=np.float32)
    return best_pairs(np.clip(boxes, 0, limits), scores)


def _rows(outputs: Outputs, name: str) -> Floats:
    """Return an output as (B, rows, columns); older exports leave out the axis of pictures."""
    found = outputs[name].astype(np.float32, copy=False)
    return found[None] if found.ndim == 2 else found
