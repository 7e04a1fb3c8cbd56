"""RT-DETR, D-FINE and DEIM as their own repositories export them, with post-processing inside."""

import numpy as np

from compress.teaching.formats.graph import NO_NMS, Fit, Graph, Outputs, Pixels
from export.detections import Candidates

_NAMES = ("labels", "boxes", "scores")


def read(graph: Graph) -> Fit | str:
    """Take labels, boxes and scores of a graph that also takes the original picture's size."""
    if "orig_target_sizes" not in graph.inputs:
        return "no input orig_target_sizes"
    if not set(_NAMES) <= set(graph.outputs):
        return f"outputs {', '.join(graph.outputs)}; it has {', '.join(_NAMES)}"
    scores = graph.outputs["scores"].shape
    if graph.outputs["boxes"].shape != (*scores, 4) or graph.outputs["labels"].shape != scores:
        return "labels, boxes and scores of shapes that do not fit each other"

    def decode(outputs: Outputs) -> Candidates:
        return Candidates(
            outputs["boxes"].astype(np.float32, copy=False),
            outputs["scores"].astype(np.float32, copy=False),
            outputs["labels"].astype(np.int32),
        )

    return Fit(
        f"labels, boxes and scores of the best {scores[-1]} queries, given the picture's size",
        graph.named,
        Pixels(resize="stretch"),
        NO_NMS,
        decode,
    )
