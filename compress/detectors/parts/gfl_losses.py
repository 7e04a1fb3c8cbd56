"""The three losses of GFL (Li et al. 2020): quality focal, distribution focal and GIoU."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from compress.batch import Targets
from compress.parts.atss import paired_iou
from compress.parts.cpu_arithmetic import log_softmax, softmax
from compress.parts.processes import over_batch

GIOU_WEIGHT = 2.0
DFL_WEIGHT = 0.25


def expected_distances(dfl_logits: Tensor) -> Tensor:
    """Return the expectation (..., 4), in strides, of (..., 4 * bins) box logits."""
    logits = _per_edge(dfl_logits)
    bins = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    # not a matrix product: TensorRT for RTX has none in FP32 for graphs of Turing GPUs
    return (softmax(logits) * bins).sum(dim=-1)


def distances_to_boxes(distances: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Return (..., 4) xyxy boxes, input pixels.

    Args:
        distances: (..., 4) left, top, right, bottom in strides.
        centres: (..., 2) x, y in pixels.
        strides: (..., 1) in pixels.
    """
    pixels = distances * strides
    return torch.cat((centres - pixels[..., :2], centres + pixels[..., 2:]), dim=-1)


def gfl_losses(
    class_logits: Tensor,
    dfl_logits: Tensor,
    matched: Tensor,
    targets: Sequence[Targets],
    centres: Tensor,
    strides: Tensor,
) -> dict[str, Tensor]:
    """Return `quality`, `giou` and `dfl`, weighted; without boxes the latter two are 0.

    Positives are weighted by the model's own best class score, and the two box losses divided by
    the sum of these weights. Counts and sums are those of the whole batch.

    Args:
        class_logits: (B, P, K).
        dfl_logits: (B, P, 4 * bins).
        matched: (B, P) index of a box in the boxes of all targets concatenated, or -1.
        targets: B entries.
        centres: (P, 2) pixels.
        strides: (P, 1) pixels.
    """
    count, classes = class_logits.shape[1:]
    flat_logits = class_logits.reshape(-1, classes)
    flat_matched = matched.flatten()
    positive = torch.nonzero(flat_matched >= 0).squeeze(1)
    owner, location = flat_matched[positive], positive % count
    # the empty tensors stand for a batch without labelled pictures
    boxes = torch.cat([centres.new_zeros(0, 4), *(t.boxes.to(centres) for t in targets)])[owner]
    labels = torch.cat([matched.new_zeros(0), *(t.labels for t in targets)])[owner]
    logits = dfl_logits.reshape(-1, dfl_logits.shape[-1])[positive]
    points, steps = centres[location], strides[location]
    predicted = distances_to_boxes(expected_distances(logits), points, steps)

    quality = torch.zeros_like(flat_logits)
    quality[positive, labels] = paired_iou(predicted.detach(), boxes)
    cross_entropy = F.binary_cross_entropy_with_logits(flat_logits, quality, reduction="none")
    focal = ((quality - flat_logits.sigmoid()).square() * cross_entropy).sum()
    weight = flat_logits.detach()[positive].sigmoid().amax(dim=1)
    total = weight.sum()
    giou = generalized_box_iou_loss(predicted, boxes)
    wanted = torch.cat((points - boxes[:, :2], boxes[:, 2:] - points), dim=1) / steps
    return {
        "quality": over_batch(focal, len(positive)),
        "giou": over_batch(GIOU_WEIGHT * (weight * giou).sum(), total, least=1e-6),
        "dfl": over_batch(
            DFL_WEIGHT * (weight * distribution_focal(logits, wanted)).sum(), total, least=1e-6
        ),
    }


def distribution_focal(logits: Tensor, distances: Tensor) -> Tensor:
    """Return (n,): cross entropy to the two bins around each distance, mean over the 4 edges.

    Args:
        logits: (n, 4 * bins).
        distances: (n, 4) in strides; beyond the last bin they count as just below it.
    """
    log_p = log_softmax(_per_edge(logits))
    last = log_p.shape[-1] - 1
    distances = distances.clamp(min=0, max=last - 0.01)
    low = distances.floor()
    index = low.long().unsqueeze(-1)
    left = log_p.gather(-1, index).squeeze(-1)
    right = log_p.gather(-1, index + 1).squeeze(-1)
    return -((low + 1 - distances) * left + (distances - low) * right).mean(dim=1)


def _per_edge(logits: Tensor) -> Tensor:
    return logits.reshape(*logits.shape[:-1], 4, logits.shape[-1] // 4)
