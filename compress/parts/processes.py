"""Sums and means of a whole batch whose pictures are spread over several processes.

Every term of a loss keeps to one rule: the mean over the processes of what each returns is what one
process returns for the whole batch. Gradients are averaged over the processes as well, so they are
those of one process too. A sum over pictures is therefore divided by the count of all processes
over their number (`over_batch`), and a mean of the own pictures is weighted by their share
(`mean_of_batch`). What is not a plain sum, such as a standard deviation over the batch or distances
between pictures, is computed from sums (`sum_over_processes`) or rows (`gather_rows`) of all.

All processes must call these functions equally often and in the same order, whatever their
pictures hold. With one process they return their argument, or the local mean, and cost nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist


def process_count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Sum(torch.autograd.Function):
    """A sum over processes; its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        total = value.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum over processes of a tensor of equal shape in all of them; differentiable."""
    if process_count() == 1:
        return value
    total: Tensor = _Sum.apply(value)
    return total


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean over processes of a tensor of equal shape in all of them; detached."""
    return sum_over_processes(value.detach()) / process_count()


def over_batch(total: Tensor, count: Tensor | float, *, least: float = 1.0) -> Tensor:
    """Return this process's part of a sum over the batch, divided by a count over the batch.

    Args:
        total: sum over this process's pictures; of any shape.
        count: count, or sum of weights, of this process's pictures; no gradient passes through it.
        least: smallest divisor.
    """
    if not isinstance(count, Tensor):
        if process_count() == 1:
            return total / max(count, least)
        count = torch.tensor(count, dtype=torch.float64, device=total.device)
    count = count.detach()
    if process_count() == 1:
        return total / count.clamp(min=least)
    # Counts in double precision: elements of large maps exceed the whole numbers of float32.
    whole = sum_over_processes(count.double()).clamp(min=least)
    return total / (whole / process_count()).to(total.dtype)


def mean_of_batch(mean: Tensor, count: Tensor | float, *, least: float = 1.0) -> Tensor:
    """Return this process's part of a mean over the batch.

    Args:
        mean: sum over this process's pictures, already divided by `count`, `least` at least.
        count: what it was divided by.
        least: smallest divisor.
    """
    if process_count() == 1:
        return mean
    own = count.detach().clamp(min=least) if isinstance(count, Tensor) else max(count, least)
    return over_batch(mean * own, count, least=least)


def sum_of_batch(total: Tensor) -> Tensor:
    """Return this process's part of a sum over the batch that is divided by nothing."""
    return total * process_count()


class Gathered(NamedTuple):
    """Rows of all processes, in the order of the processes.

    Attributes:
        rows: (G, ...); gradients reach the processes that they came from.
        own: where the rows of this process are.
    """

    rows: Tensor
    own: slice


def gather_rows(rows: Tensor) -> Gathered:
    """Return the rows of all processes; each may have another number of rows (n, ...)."""
    if process_count() == 1:
        return Gathered(rows, slice(0, len(rows)))
    counts = torch.zeros(process_count(), dtype=torch.int64, device=rows.device)
    counts[dist.get_rank()] = len(rows)
    dist.all_reduce(counts)
    found = counts.tolist()
    before, after = sum(found[: dist.get_rank()]), sum(found[dist.get_rank() + 1 :])
    padding = [rows.new_zeros((size, *rows.shape[1:])) for size in (before, after)]
    placed = torch.cat([padding[0], rows, padding[1]])
    return Gathered(sum_over_processes(placed), slice(before, before + len(rows)))


def ids_of_batch(image_ids: Sequence[int]) -> tuple[int, ...]:
    """Return the dataset ids of the pictures of all processes."""
    if process_count() == 1:
        return tuple(image_ids)
    parts: list[Sequence[int]] = [()] * process_count()
    dist.all_gather_object(parts, tuple(image_ids))
    return tuple(one for part in parts for one in part)
