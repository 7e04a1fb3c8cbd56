"""How far apart two softmax heads are on the same rows."""

from torch import Tensor
from torch.nn import functional


def class_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher | student) per row, (R,), times temperature squared.

    Shapes: logits (R, K + 1).
    """
    own = functional.log_softmax(student / temperature, dim=1)
    other = functional.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * functional.kl_div(own, other, reduction="none", log_target=True).sum(
        dim=1
    )


def mean_over(values: Tensor, rows: Tensor) -> Tensor:
    """Return the mean of values (R,) over the rows (R,) that are True; 0, attached, without any."""
    return (values * rows).sum() / rows.sum().clamp(min=1)
