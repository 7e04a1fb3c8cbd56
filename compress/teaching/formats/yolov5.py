"""YOLOv5 and YOLOv7 as their own repositories export them: 3 anchors per cell, decoded."""

import numpy as np

from compress.teaching.formats.graph import (
    NMS,
    Fit,
    Graph,
    Outputs,
    Pixels,
    are_scores,
    levels_of,
    objectness_pairs,
)
from export.detections import Candidates


def read(graph: Graph) -> Fit | str:
    """Take a first output with 3 rows for each cell and 5 + K columns."""
    if not graph.outputs:
        return "no output"
    name, output = next(iter(graph.outputs.items()))  # further ones are the maps it is made of
    if output.ndim != 3:
        return f"a first output of {output.ndim} axes, and it has 3"
    rows, columns = output.shape[1:]
    strides = levels_of(graph, rows, per_cell=3)
    if strides is None or columns < 6 or graph.named not in (None, columns - 5):
        return f"a first output of {rows} x {columns}; it has 3 rows per cell and 5 + K columns"
    if not are_scores(graph.floats(name)[..., 4:]):
        return "3 rows for each cell, but the scores are not in 0..1"

    def decode(outputs: Outputs) -> Candidates:
        found = outputs[name].astype(np.float32, copy=False)
        return objectness_pairs(found[..., :4], found)

    return Fit(
        f"box, objectness and {columns - 5} classes for 3 anchors in each cell of strides "
        f"{', '.join(map(str, strides))}",
        columns - 5,
        Pixels(),
        NMS,
        decode,
    )
