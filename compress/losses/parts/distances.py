"""Relative distances between vectors."""

import torch
from torch import Tensor

LEAST_SQUARED_DISTANCE = 1e-12


def relative_distances(vectors: Tensor) -> Tensor:
    """Return (G, G) distances over their mean off the diagonal; the diagonal is 0.

    Vectors that coincide count as 1e-6 apart; a single one has nothing but the diagonal.

    The vectors (G, V) may be long and near one another. Direct differences would take G * G * V
    numbers, and the formula with inner products loses what the vectors have in common to
    cancellation; so their mean, which no distance depends on, is taken away first.
    """
    centred = vectors - vectors.mean(dim=0).detach()
    squared_norm = centred.square().sum(dim=1)
    squared = squared_norm[:, None] + squared_norm - 2 * centred @ centred.T
    apart = ~torch.eye(vectors.shape[0], dtype=torch.bool, device=vectors.device)
    distance = squared.where(apart, 1.0).clamp(min=LEAST_SQUARED_DISTANCE).sqrt() * apart
    mean = distance.sum() / apart.sum().clamp(min=1)
    return distance / mean.clamp(min=1e-12)
