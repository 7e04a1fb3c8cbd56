"""The squared error of maps under a mask, as DeFeat's authors normalise it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.parts.processes import over_batch


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared difference of maps (B, C, H, W) summed over channels, (B, H, W)."""
    return (student - teacher).square().sum(dim=1)


def masked_error(error: Tensor, mask: Tensor, channels: int) -> Tensor:
    """Return half the error's mean over the masked elements of the whole batch.

    Args:
        error: (B, H, W), summed over channels.
        mask: (B, H, W), bool or weights in 0..1.
        channels: how many elements a cell counts for; 1 makes it a mean over cells.

    Returns:
        A scalar; 0, attached to the graph, under an empty mask.
    """
    return over_batch((error * mask).sum(), mask.sum() * (2 * channels))


def mean_masked_error(
    pairs: Sequence[tuple[Tensor, Tensor]], masks: Sequence[Tensor], *, count_channels: bool = True
) -> Tensor:
    """Return the mean over L maps of their masked errors.

    Args:
        pairs: L adapted student and teacher maps (B, C_l, H_l, W_l).
        masks: L masks (B, H_l, W_l), bool or weights in 0..1; an empty one still counts as a map.
        count_channels: whether a cell counts for its C_l channels or for 1.
    """
    errors = [
        masked_error(squared_error(own, other), mask, other.shape[1] if count_channels else 1)
        for (own, other), mask in zip(pairs, masks, strict=True)
    ]
    return torch.stack(errors).mean()
