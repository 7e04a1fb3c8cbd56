"""Mean and deviation of every channel over a whole batch and its cells."""

from typing import NamedTuple

import torch
from torch import Tensor

from compress.parts.processes import process_count, sum_over_processes


class ChannelStatistics(NamedTuple):
    """Statistics of maps (B, C, H, W) over the pictures of all processes.

    Attributes:
        mean: (1, C, 1, 1).
        deviation: (1, C, 1, 1), unbiased; 0 if there is one number per channel.
        numbers: how many per channel.
    """

    mean: Tensor
    deviation: Tensor
    numbers: int


def mean_and_deviation(maps: Tensor) -> ChannelStatistics:
    """Return the statistics of maps (B, C, H, W); gradients pass through both.

    Not `var().sqrt()`, whose gradient is infinite at a constant channel.
    """
    over, own = (0, 2, 3), maps[:, 0].numel()
    if process_count() == 1:
        if own == 1:
            return ChannelStatistics(maps, torch.zeros_like(maps), own)
        deviation, mean = torch.std_mean(maps, dim=over, keepdim=True)
        return ChannelStatistics(mean, deviation, own)
    sums = torch.cat([maps.sum(dim=over), maps.new_full((1,), own)])
    total = sum_over_processes(sums)
    count = int(total[-1].detach().round())
    mean = (total[:-1] / count).view(1, -1, 1, 1)
    # the root as a norm, whose gradient at 0 is 0; of the norms of all processes
    squares = sum_over_processes((maps - mean).square().sum(dim=over, keepdim=True))
    still = squares == 0
    root = squares.masked_fill(still, 1.0).sqrt().masked_fill(still, 0.0)
    return ChannelStatistics(mean, root / max(1, count - 1) ** 0.5, count)
