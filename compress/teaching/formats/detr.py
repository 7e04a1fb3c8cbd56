"""DETR and those that keep its two outputs: boxes in shares of the input, and class logits.

DETR has a logit for "no object" after its classes (softmax); Deformable DETR, DINO, RT-DETR,
D-FINE and RF-DETR have none (sigmoid). The shapes do not tell the two apart, so the number of class
names decides.
"""

import numpy as np

from compress.teaching.formats.graph import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NO_NMS,
    Fit,
    Graph,
    Outputs,
    Pixels,
    best_pairs,
    corners,
    sigmoid,
    softmax,
)
from export.detections import Candidates

_BOXES = ("pred_boxes", "dets", "boxes")
_LOGITS = ("logits", "pred_logits", "labels", "scores")
_NORMALISED = Pixels(resize="stretch", mean=IMAGENET_MEAN, std=IMAGENET_STD)


def read(graph: Graph) -> Fit | str:
    """Take DETR's own form, whose last logit is no object."""
    return _read(graph, no_object=True)


def read_without_no_object(graph: Graph) -> Fit | str:
    """Take the form of its successors, in which every logit is a class."""
    return _read(graph, no_object=False)


def _read(graph: Graph, *, no_object: bool) -> Fit | str:
    boxes = next((name for name in _BOXES if name in graph.outputs), None)
    logits = next((name for name in _LOGITS if name in graph.outputs), None)
    if boxes is None or logits is None:
        return "no two outputs named like pred_boxes (or dets) and logits (or labels)"
    shapes = graph.outputs[boxes].shape, graph.outputs[logits].shape
    if any(len(shape) != 3 for shape in shapes) or shapes[0] != (*shapes[1][:2], 4):
        return f"{boxes} and {logits} are not Q x 4 and Q x K for the same Q queries"
    count = shapes[1][-1] - no_object
    # RF-DETR trained on K classes has a logit that it never uses after them
    spare = boxes == "dets" and not no_object and graph.named == count - 1
    if graph.named is not None and graph.named != count and not spare:
        return (
            f"{shapes[1][-1]} logits are {count} classes{' and no object' if no_object else ''}, "
            f"and {graph.named} class names are given"
        )
    if boxes == "dets" and no_object:
        return "outputs named as RF-DETR's, which has no logit for no object"
    classes = graph.named if spare and graph.named is not None else count
    size = np.array([graph.width, graph.height] * 2, dtype=np.float32)

    def decode(outputs: Outputs) -> Candidates:
        found = outputs[logits].astype(np.float32, copy=False)
        scores = softmax(found) if no_object else sigmoid(found)
        places = corners(outputs[boxes].astype(np.float32, copy=False)) * size
        return best_pairs(places, scores[..., :classes])

    last = " and one for no object (softmax)" if no_object else " (sigmoid)"
    # RT-DETR and D-FINE in Transformers divide by 255 alone
    plain = not no_object and boxes == "pred_boxes"
    return Fit(
        f"boxes in shares of the input and {classes} classes{last} for each of {shapes[0][1]} "
        "queries",
        classes,
        Pixels(resize="stretch") if plain else _NORMALISED,
        NO_NMS,
        decode,
    )
