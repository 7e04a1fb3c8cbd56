"""From candidate boxes to detections: threshold, NMS and the way back to the photograph."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import Manifest, NmsSpec
from export.errors import ExportError
from export.pictures.images import Letterbox

CHUNK = 192  # boxes per step of NMS: one matrix of their IoUs


OUTPUTS = ("boxes", "scores", "labels")  # names in a graph


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

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, NDArray[np.generic]]) -> "Candidates":
        """Convert a graph's outputs by name; copy only those of another type."""
        return cls(
            outputs["boxes"].astype(np.float32, copy=False),
            outputs["scores"].astype(np.float32, copy=False),
            outputs["labels"].astype(np.int32, copy=False),
        )


def checked_outputs(
    path: Path, outputs: Mapping[str, NDArray[np.generic]], count: int, manifest: Manifest
) -> Candidates:
    """Return what a graph gave for `count` pictures, if it is boxes, scores and labels.

    Raises:
        ExportError: it has other shapes or types, or a label that is no class.
    """
    problem = _misfit(outputs, count, len(manifest.classes))
    if problem is not None:
        raise ExportError(f"{path}: {problem}; export the model again")
    return Candidates.from_outputs(outputs)


def _misfit(outputs: Mapping[str, NDArray[np.generic]], count: int, classes: int) -> str | None:
    """Return what is wrong with the outputs; None for nothing."""
    boxes, scores, labels = (outputs[name] for name in OUTPUTS)
    rows = scores.shape
    if len(rows) != 2 or rows[0] != count or boxes.shape != (*rows, 4) or labels.shape != rows:
        return (
            f"gives boxes {boxes.shape}, scores {rows} and labels {labels.shape}; expected "
            f"({count}, P, 4), ({count}, P) and ({count}, P)"
        )
    if (boxes.dtype.kind, scores.dtype.kind, labels.dtype.kind) != ("f", "f", "i"):
        return (
            f"gives boxes {boxes.dtype}, scores {scores.dtype} and labels {labels.dtype}; expected "
            "floats, floats and whole numbers"
        )
    found = Candidates.from_outputs(outputs)
    if found.labels.size and not 0 <= found.labels.min() <= found.labels.max() < classes:
        real = found.labels[found.scores > 0]  # others are padding
        odd = real[(real < 0) | (real >= classes)]
        if odd.size:
            return f"gives the label {odd[0]}; its sidecar has 0 to {classes - 1}"
    return None


@dataclass(frozen=True)
class Detections:
    """What one picture holds, best first.

    Attributes:
        boxes: (n, 4) float32 xyxy; in the frame that its producer states (input or photograph).
        scores: (n,) float32.
        labels: (n,) int32 in 0..K-1.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]


def select_detections(
    candidates: Candidates, nms: NmsSpec, score_threshold: float
) -> list[Detections]:
    """Select each picture's detections from its candidates, in the input frame.

    Keeps scores above the threshold; with `nms.mode` "host" then drops every box that overlaps a
    better one of its class by more than `nms.iou` (greedy, exact). Equal scores go by index. At
    most `nms.max_detections` stay per picture. With NMS in the graph the candidates are detections
    already; a threshold after NMS keeps the same boxes as one before it.
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

    Boxes without area overlap nothing. Goes chunk by chunk, best first, and stops once `at_most`
    are kept, which is exact: a later box never removes an earlier one.
    """
    kept = np.zeros(0, dtype=np.intp)
    for start in range(0, len(boxes), CHUNK):
        if len(kept) >= at_most:
            break
        chunk = np.arange(start, min(start + CHUNK, len(boxes)))
        if len(kept):
            chunk = chunk[~_covers(boxes, labels, kept, chunk, iou).any(axis=0)]
        covers = _covers(boxes, labels, chunk, chunk, iou)
        alive = np.ones(len(chunk), dtype=np.bool_)
        for row in range(len(chunk)):
            if alive[row]:
                alive[row + 1 :] &= ~covers[row, row + 1 :]
        kept = np.concatenate([kept, chunk[alive]])
    return kept[:at_most]


def overlapping(
    boxes: NDArray[np.float32], labels: NDArray[np.int32], iou: float
) -> NDArray[np.bool_]:
    """Return (n, n): whether two boxes of one class overlap by more than `iou`."""
    everyone = np.arange(len(boxes))
    return _covers(boxes, labels, everyone, everyone, iou)


def _covers(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int32],
    ours: NDArray[np.intp],
    theirs: NDArray[np.intp],
    iou: float,
) -> NDArray[np.bool_]:
    """Whether each of our boxes (rows) overlaps each of theirs (columns) of its class too much."""
    mine, other = boxes[ours].T[:, :, None], boxes[theirs].T[:, None, :]
    width = np.minimum(mine[2], other[2]) - np.maximum(mine[0], other[0])
    height = np.minimum(mine[3], other[3]) - np.maximum(mine[1], other[1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (mine[2] - mine[0]) * (mine[3] - mine[1])
    others = (other[2] - other[0]) * (other[3] - other[1])
    too_much = shared > iou * (areas + others - shared)
    same: NDArray[np.bool_] = too_much & (labels[ours][:, None] == labels[theirs])
    return same


def to_photograph(
    detections: Detections, letterbox: Letterbox, width: int, height: int
) -> Detections:
    """Move detections from the input to the photograph of `width` x `height` pixels.

    Boxes are clipped to the photograph; those that lie wholly in the filled margin are dropped.
    """
    boxes = letterbox.to_photograph(detections.boxes, width, height)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Detections(boxes[inside], detections.scores[inside], detections.labels[inside])
