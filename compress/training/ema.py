"""An exponential moving average of a model's weights and buffers."""

import copy

import torch
from torch import Tensor, nn


class Ema:
    """Moving average of `model`; its decay at update t is min(decay, (1 + t) / (10 + t))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average from `model`; integers (counters of batches) are copied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine, theirs = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in mine.items() if value.is_floating_point()]
        averaged: list[Tensor] = [mine[name] for name in floating]
        torch._foreach_lerp_(averaged, [theirs[name].detach() for name in floating], 1 - decay)
        for name in mine.keys() - set(floating):
            mine[name].copy_(theirs[name])
