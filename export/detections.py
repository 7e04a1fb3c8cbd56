"""From candidate boxes to detections: threshold, NMS and the way back to the photograph."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.images import Letterbox
from export.manifest import NmsSpec


@dataclass(frozen=True)
class Candidates:
    """Boxes before NMS, as a detector, an ONNX graph or an engine returns them.

    Attributes:
        boxes: (B, P, 4) float32 xyxy, pixels of the letterboxed input.
        scores: (B, P) float32 in 0..1; -1 marks padding.
        labels: (B, P) int32 in 0..K-1.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class Detections:
    """What one picture holds, best first.

    Attributes:
        boxes: (n, 4) float32 xyxy; the frame (input or photograph) is said by who made it.
        scores: (n,) float32.
        labels: (n,) int32 in 0..K-1.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]


def select_detections(
    candidates: Candidates, nms: NmsSpec, score_threshold: float
) -> list[Detections]:
    """Return what is left of each picture's candidates, in the input frame.

    Keeps scores above the threshold; with `nms.mode` "host" then drops every box that overlaps a
    better one of its class by more than `nms.iou` (greedy, exact). Equal scores go by index. At
    most `nms.max_detections` stay per picture.
    """
    selected = []
    for boxes, scores, labels in zip(
        candidates.boxes, candidates.scores, candidates.labels, strict=True
    ):
        above = np.flatnonzero(scores > score_threshold)
        order = above[np.argsort(-scores[above], kind="stable")]
        if nms.mode == "host":
            kept = suppress(boxes[order], labels[order], nms.iou, nms.max_detections)
            order = order[kept]
        order = order[: nms.max_detections]
        selected.append(Detections(boxes[order], scores[order], labels[order]))
    return selected


def suppress(
    boxes: NDArray[np.float32], labels: NDArray[np.int32], iou: float, at_most: int
) -> NDArray[np.intp]:
    """Return the indices that greedy NMS keeps of (n, 4) xyxy boxes sorted best first.

    Boxes without area overlap nothing. Stops once `at_most` are kept, which is exact: a later box
    never removes an earlier one.
    """
    left, top, right, bottom = np.ascontiguousarray(boxes.T)
    areas = (right - left) * (bottom - top)
    kept: list[int] = []
    alive = np.arange(len(boxes))
    while alive.size and len(kept) < at_most:
        best, alive = alive[0], alive[1:]
        kept.append(int(best))
        width = np.minimum(right[alive], right[best]) - np.maximum(left[alive], left[best])
        height = np.minimum(bottom[alive], bottom[best]) - np.maximum(top[alive], top[best])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        covered = shared > iou * (areas[alive] + areas[best] - shared)
        alive = alive[~(covered & (labels[alive] == labels[best]))]
    return np.array(kept, dtype=np.intp)


def to_photograph(
    detections: Detections, letterbox: Letterbox, width: int, height: int
) -> Detections:
    """Move detections from the input to the photograph of `width` x `height` pixels.

    Boxes are clipped to the photograph; those that lie wholly in the filled margin are dropped.
    """
    boxes = letterbox.to_photograph(detections.boxes, width, height)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Detections(boxes[inside], detections.scores[inside], detections.labels[inside])
