"""Detectors of MMDetection as MMDeploy exports them: NMS inside."""

import numpy as np

from compress.teaching.formats.graph import NO_NMS, Fit, Graph, Outputs, Pixels
from export.detections import Candidates

# RGB; the configurations of RTMDet and of older models give BGR and other numbers
_PIXELS = Pixels(range=255, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def read(graph: Graph) -> Fit | str:
    """Take `dets`, rows of corners and score, and `labels`."""
    if not {"dets", "labels"} <= set(graph.outputs):
        return f"outputs {', '.join(graph.outputs) or 'none'}; it has dets and labels"
    dets, labels = graph.outputs["dets"].shape, graph.outputs["labels"].shape
    if len(dets) != 3 or dets[2] != 5 or labels != dets[:2]:
        return "dets and labels are not N x 5 and N"

    def decode(outputs: Outputs) -> Candidates:
        found = outputs["dets"].astype(np.float32, copy=False)
        return Candidates(found[..., :4], found[..., 4], outputs["labels"].astype(np.int32))

    return Fit(
        "rows of corners and score, and their labels: boxes after NMS",
        graph.named,
        _PIXELS,
        NO_NMS,
        decode,
    )
