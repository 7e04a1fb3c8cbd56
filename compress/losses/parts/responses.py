"""Divergences between two heads' predictions, shared by the losses on responses."""

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss

from compress.parts.cpu_arithmetic import log_softmax
from compress.parts.processes import over_batch

IGNORED = -2  # in `Dense.match`: neither positive nor negative
GIOU_EPSILON = 1e-6
LEAST_GAP = 1e-12


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher | student) times temperature squared.

    Shapes: logits (..., C), result (...): summed over the C outcomes.
    """
    own = log_softmax(student / temperature)
    other = log_softmax(teacher / temperature)
    apart = functional.kl_div(own, other, reduction="none", log_target=True)
    return temperature**2 * apart.sum(dim=-1)


def mean_over(values: Tensor, rows: Tensor) -> Tensor:
    """Return the batch's mean of values (R,) over the rows (R,) that are True; 0 without any."""
    return over_batch((values * rows).sum(), rows.sum())


def edge_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return `divergence` of box distributions, summed over the 4 edges.

    Shapes: logits (..., 4 * bins), edge by edge; result (...).
    """
    by_edge = (*student.shape[:-1], 4, student.shape[-1] // 4)
    return divergence(student.reshape(by_edge), teacher.reshape(by_edge), temperature).sum(dim=-1)


def two_way_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL of (p, 1 - p), p = sigmoid(logit / temperature), times temperature squared.

    Shapes: logits (..., K), result (...): summed over the K classes.
    """
    pairs = [torch.stack((z, torch.zeros_like(z)), dim=-1) for z in (student, teacher)]
    return divergence(pairs[0], pairs[1], temperature).sum(dim=-1)


def score_gap(student_logits: Tensor, teacher_scores: Tensor) -> Tensor:
    """Return the absolute difference of the scores per class.

    Shapes: (..., K), as the student's logits and the teacher's scores (after its sigmoid).
    """
    return (student_logits.sigmoid() - teacher_scores).abs()


def focal_cross_entropy(
    student_logits: Tensor, teacher_scores: Tensor, gap: Tensor, beta: float
) -> Tensor:
    """Return gap^beta times the binary cross entropy with the teacher's scores (BCKD).

    The factor is not detached: the gradient passes through it as well.

    Shapes: (..., K) each, result (...): summed over the K classes.
    """
    entropy = functional.binary_cross_entropy_with_logits(
        student_logits, teacher_scores, reduction="none"
    )
    # for beta < 1 the gradient at 0 is infinite
    factor = gap if beta == 1 else gap.clamp(min=LEAST_GAP).pow(beta)
    return (factor * entropy).sum(dim=-1)


def giou_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - GIoU (...) of xyxy boxes (..., 4), pair by pair."""
    pairs = student.reshape(-1, 4), teacher.reshape(-1, 4)
    error: Tensor = generalized_box_iou_loss(*pairs, eps=GIOU_EPSILON)
    return error.reshape(student.shape[:-1])
