"""Statistics and softmax of shapes for which torch's own kernels are slow on a CPU.

`torch.std_mean` over batch and cells takes four times as long as two passes of sums. Softmax passes
a row of fewer numbers than a vector register holds one number at a time: 9 bins take four times as
long as 16. With the numbers first in memory the rows fill the registers.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from compress.parts.processes import sum_over_processes

OVER = (0, 2, 3)
REGISTER = 16  # float32 numbers in a register of AVX-512; of AVX2 it holds 8


class ChannelStatistics(NamedTuple):
    """Statistics of maps (B, C, H, W) over the pictures of all processes.

    Attributes:
        mean: (1, C, 1, 1).
        deviation: (1, C, 1, 1), unbiased; 0 if there is one number per channel.
        numbers: how many per channel.
        centred: (B, C, H, W), the maps of this process less `mean`.
    """

    mean: Tensor
    deviation: Tensor
    numbers: int
    centred: Tensor


def mean_and_deviation(maps: Tensor) -> ChannelStatistics:
    """Return the statistics of maps (B, C, H, W); gradients pass through them.

    Not `var().sqrt()`, whose gradient is infinite at a constant channel.
    """
    sums = torch.cat([maps.sum(dim=OVER), maps.new_full((1,), maps[:, 0].numel())])
    total = sum_over_processes(sums)
    count = int(total[-1].detach().round())
    mean = (total[:-1] / count).view(1, -1, 1, 1)
    centred = maps - mean
    squares = centred.square().sum(dim=OVER, keepdim=True)
    # the root as a norm, whose gradient at 0 is 0; of the norms of all processes
    whole = sum_over_processes(squares)
    still = whole == 0
    root = whole.masked_fill(still, 1.0).sqrt().masked_fill(still, 0.0)
    deviation = root / max(1, count - 1) ** 0.5
    return ChannelStatistics(mean, deviation, count, centred)


def softmax(logits: Tensor) -> Tensor:
    """Return the softmax of (..., K) over K; few numbers come first in memory."""
    if _are_short(logits):
        return _numbers_first(logits).softmax(dim=0).movedim(0, -1)
    return logits.softmax(dim=-1)


def log_softmax(logits: Tensor) -> Tensor:
    """Return the logarithm of the softmax of (..., K) over K; few numbers come first in memory."""
    if _are_short(logits):
        return _numbers_first(logits).log_softmax(dim=0).movedim(0, -1)
    return logits.log_softmax(dim=-1)


def _are_short(logits: Tensor) -> bool:
    # an exported or compiled graph keeps one node: runtimes have kernels of their own
    traced = torch.compiler.is_compiling()
    return logits.device.type == "cpu" and logits.shape[-1] < REGISTER and not traced


def _numbers_first(logits: Tensor) -> Tensor:
    return logits.movedim(-1, 0).contiguous()
