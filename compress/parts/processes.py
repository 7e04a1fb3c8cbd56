"""Averages over the processes of a distributed run."""

from torch import Tensor
from torch import distributed as dist


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a scalar over the processes of a distributed run.

    Losses divided by it have, after the processes' gradients are averaged, the gradient that one
    process would have on the whole batch.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
        value = value / dist.get_world_size()
    return value
