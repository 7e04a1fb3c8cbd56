"""The task loss of YOLOv8 and later: task-aligned assignment, cross entropy, CIoU, DFL or L1.

Assigner and box losses are those of the package `ultralytics`, called; the sums are divided by the
assigned scores of the whole batch, over all processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from compress.batch import Targets
from compress.detectors.parts.gfl_losses import distances_to_boxes, expected_distances
from compress.detectors.ultralytics_parts.package import load_package
from compress.parts.processes import over_batch

ALPHA, BETA = 0.5, 6.0  # powers of score and IoU in the assigner, as the package trains with


@dataclass(frozen=True)
class Cells:
    """The P locations of a head.

    Attributes:
        centres: (P, 2) pixels.
        strides: (P, 1) pixels.
        sizes: the levels' strides.
        height: height of the input, pixels.
        width: width of the input, pixels.
    """

    centres: Tensor
    strides: Tensor
    sizes: tuple[int, ...]
    height: int
    width: int


@dataclass(frozen=True)
class Assigned:
    """Which object each location is responsible for.

    Attributes:
        boxes: (B, P, 4) xyxy pixels.
        scores: (B, P, K), what the class scores should be.
        positive: (B, P) bool.
        owner: (B, P) int64, index of the object in its picture; arbitrary where not positive.
    """

    boxes: Tensor
    scores: Tensor
    positive: Tensor
    owner: Tensor


def distances_of(box_logits: Tensor, bins: int) -> Tensor:
    """Return distances (..., 4) in strides of (..., 4 * bins) box outputs; raw ones for one bin."""
    return box_logits if bins == 1 else expected_distances(box_logits)


def assign(
    scores: Tensor, boxes: Tensor, targets: Sequence[Targets], cells: Cells, most: tuple[int, int]
) -> Assigned:
    """Assign the objects of each picture to locations; no gradient passes.

    Args:
        scores: (B, P, K) in 0..1.
        boxes: (B, P, 4) xyxy pixels.
        targets: B entries.
        cells: the locations.
        most: locations that an object is offered, and that it keeps.
    """
    count = max((len(target.boxes) for target in targets), default=0)
    padded = boxes.new_zeros(len(targets), count, 4)
    labels = boxes.new_zeros(len(targets), count, 1)
    for index, target in enumerate(targets):
        padded[index, : len(target.boxes)] = target.boxes.to(padded)
        labels[index, : len(target.boxes), 0] = target.labels.to(labels)
    assigner = load_package().assigner(
        topk=most[0],
        num_classes=scores.shape[-1],
        alpha=ALPHA,
        beta=BETA,
        stride=list(cells.sizes),
        topk2=most[1],
    )
    real = padded.sum(dim=2, keepdim=True).gt(0).to(padded.dtype)
    _, found, wanted, positive, owner = assigner(
        scores.detach(), boxes.detach(), cells.centres, labels, padded, real
    )
    return Assigned(found, wanted, positive.bool(), owner.long())


def matched(assigned: Assigned, targets: Sequence[Targets]) -> Tensor:
    """Return the assignment as `Dense.match` states it, (B, P)."""
    counts = torch.tensor([0, *(len(target.boxes) for target in targets[:-1])])
    before = counts.cumsum(0).to(assigned.owner.device)
    return torch.where(assigned.positive, assigned.owner + before[:, None], -1)


def task_aligned_losses(
    class_logits: Tensor,
    box_logits: Tensor,
    targets: Sequence[Targets],
    cells: Cells,
    most: tuple[int, int],
) -> dict[str, Tensor]:
    """Return `class`, `box` and `dfl` (`l1` of a head without bins), weighted as the package does.

    Args:
        class_logits: (B, P, K).
        box_logits: (B, P, 4 * bins).
        targets: B entries; without any, all terms are 0.
        cells: the locations.
        most: locations that an object is offered, and that it keeps.
    """
    bins = box_logits.shape[-1] // 4
    last = "dfl" if bins > 1 else "l1"
    if not targets:
        nothing = box_logits.sum()  # an empty sum: 0, attached to the graph
        return {"class": class_logits.sum(), "box": nothing, last: nothing}
    package = load_package()
    distances = distances_of(box_logits, bins)
    boxes = distances_to_boxes(distances, cells.centres, cells.strides)
    assigned = assign(class_logits.sigmoid(), boxes, targets, cells, most)
    total = assigned.scores.sum()
    wanted = assigned.scores.to(class_logits.dtype)
    in_class = functional.binary_cross_entropy_with_logits(class_logits, wanted, reduction="sum")
    size = torch.tensor([cells.height, cells.width], device=boxes.device, dtype=boxes.dtype)
    in_box, in_edges = package.box_loss(bins)(
        box_logits,
        boxes / cells.strides,
        cells.centres / cells.strides,
        assigned.boxes / cells.strides,
        assigned.scores,
        boxes.new_ones(()),  # divided below
        assigned.positive,
        size,
        cells.strides,
    )
    gains: Mapping[str, float] = package.gains
    return {
        "class": gains["cls"] * over_batch(in_class, total),
        "box": gains["box"] * over_batch(in_box, total),
        last: gains["dfl"] * over_batch(in_edges, total),
    }
