"""Batch normalisation by the statistics of the whole batch, whatever the number of processes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.parts.processes import process_count, sum_over_processes


class BatchNormOverProcesses(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics in train mode are those of all processes' pictures.

    On a CPU too, where `nn.SyncBatchNorm` does not run. With one process it is its base class.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if not self.training or process_count() == 1:
            return super().forward(maps)
        over = (0, 2, 3)
        own = maps.float()
        sums = torch.cat([own.sum(dim=over), own.new_full((1,), own[:, 0].numel())])
        total = sum_over_processes(sums)
        count = total[-1].detach()
        if count <= 1:
            return self.by_running_statistics(maps)
        mean = (total[:-1] / count).view(1, -1, 1, 1)
        squares = sum_over_processes((own - mean).square().sum(dim=over))
        variance = squares / count
        self._remember(mean.flatten(), squares / (count - 1))
        normal = (own - mean) * (variance.view(1, -1, 1, 1) + self.eps).rsqrt()
        if self.weight is not None:
            normal = normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normal.to(maps.dtype)

    def by_running_statistics(self, maps: Tensor) -> Tensor:
        """Normalise by the running statistics, as in eval mode."""
        return functional.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum
        if share is None:
            share = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


def over_processes(module: nn.Module, device: torch.device) -> list[str]:
    """Replace every `nn.BatchNorm2d` inside `module` by one over all processes, if there are more.

    Returns:
        A warning about layers of other libraries that derive from it and are left as they are.
    """
    if process_count() == 1:
        return []
    _replace(module, device)
    known = (BatchNormOverProcesses, nn.SyncBatchNorm)
    alone = {
        type(one).__name__
        for one in module.modules()
        if isinstance(one, nn.modules.batchnorm._BatchNorm) and not isinstance(one, known)
    }
    if not alone:
        return []
    return [
        f"layers of class {', '.join(sorted(alone))} normalise by the pictures of one process, so "
        "that several processes do not train exactly what one does; norm: frozen does"
    ]


def _replace(module: nn.Module, device: torch.device) -> None:
    for name, child in module.named_children():
        if type(child) is not nn.BatchNorm2d:
            _replace(child, device)
        elif device.type == "cuda":
            synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(child)  # type: ignore[no-untyped-call]
            setattr(module, name, synchronised)
        else:
            setattr(module, name, _as_over_processes(child))


def _as_over_processes(norm: nn.BatchNorm2d) -> BatchNormOverProcesses:
    made = BatchNormOverProcesses(
        norm.num_features,
        eps=norm.eps,
        momentum=norm.momentum,
        affine=norm.affine,
        track_running_stats=norm.track_running_stats,
    )
    made.train(norm.training)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(made, name, getattr(norm, name))
    return made
