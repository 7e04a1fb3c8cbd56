"""Relative distances between vectors."""

import torch
from torch import Tensor

LEAST_SQUARED_DISTANCE = 1e-12


def relative_distances(vectors: Tensor) -> Tensor:
    """Return (G, G) Euclidean distances of vectors (G, V), divided by their off-diagonal mean.

    The diagonal is 0. Equal vectors count as 1e-6 apart. Direct differences would need G * G * V
    numbers, so inner products are used; the mean is subtracted first, because they lose precision
    to cancellation where the vectors are long and close together.
    """
    centred = vectors - vectors.mean(dim=0).detach()
    squared_norm = centred.square().sum(dim=1)
    squared = squared_norm[:, None] + squared_norm - 2 * centred @ centred.T
    apart = ~torch.eye(vectors.shape[0], dtype=torch.bool, device=vectors.device)
    distance = squared.where(apart, 1.0).clamp(min=LEAST_SQUARED_DISTANCE).sqrt() * apart
    mean = distance.sum() / apart.sum().clamp(min=1)
    return distance / mean.clamp(min=1e-12)
