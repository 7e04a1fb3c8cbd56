"""`weight: auto`: hold a loss at a given ratio of the task loss, measured once, then frozen."""

import torch
from torch import Tensor, nn

from compress.parts.processes import mean_over_processes


class Balance(nn.Module):
    """Sums both sides over the first `window` active steps; the factor is their ratio.

    The sums are buffers, so that a resumed run uses the same factor.
    """

    task: Tensor
    own: Tensor
    steps: Tensor

    def __init__(self, ratio: float, window: int) -> None:
        super().__init__()
        self.ratio, self.window = ratio, window
        for name in ("task", "own", "steps"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def observe(self, task: Tensor, own: Tensor) -> None:
        """Add one step's task loss and the loss's own sum of terms, both scalars."""
        if float(self.steps) >= self.window:
            return
        seen = mean_over_processes(torch.stack([task.double(), own.double()])).abs()
        if bool(seen.isfinite().all()):  # the loop stops for one that is not
            self.task += seen[0]
            self.own += seen[1]
            self.steps += 1

    @property
    def factor(self) -> float:
        """The factor of the terms; 1 until a term has had a value."""
        own = float(self.own)
        return self.ratio * float(self.task) / own if own > 0 else 1.0

    @property
    def frozen(self) -> bool:
        """Whether the window is over."""
        return float(self.steps) >= self.window
