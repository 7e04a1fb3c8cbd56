"""Batch normalisation: statistics of the whole batch over processes, and of folded weights."""

from collections.abc import Callable, Iterable, Sequence

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


def folded_layers(module: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the layers of loaded weights that add a bias and normalise nothing.

    Weights of an exported file have their normalisation folded into the convolutions. Such a layer
    states a mean of 0, one variance for all channels and a scale of 1. In train mode it would
    normalise after all, which would ruin the network.
    """
    return [
        one
        for one in module.modules()
        if isinstance(one, nn.BatchNorm2d)
        and one.running_mean is not None
        and one.running_var is not None
        and bool((one.running_mean == 0).all())
        and float(one.running_var.amax() - one.running_var.amin()) < 1e-6
        and bool((one.weight == 1).all())
        and bool((one.bias != 0).any())
    ]


@torch.no_grad()
def state_statistics(
    module: nn.Module, layers: Sequence[nn.BatchNorm2d], passes: Iterable[Callable[[], object]]
) -> None:
    """Give layers the statistics of their inputs, and scales and biases that undo them.

    What the module computes in eval mode stays the same but for rounding; in train mode it is then
    close to that, as its batches have about these statistics.

    Args:
        module: network on any device; its mode is left as it was.
        layers: layers of `module` to change.
        passes: functions, each of which passes pictures through `module`.
    """
    sums = {one: torch.zeros(2, one.num_features, dtype=torch.float64) for one in layers}
    counts = dict.fromkeys(layers, 0)

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.BatchNorm2d)
        maps = inputs[0].double()
        over = (0, 2, 3)
        sums[layer] += torch.stack((maps.sum(dim=over), maps.square().sum(dim=over))).cpu()
        counts[layer] += maps[:, 0].numel()

    modes = {one: one.training for one in module.modules()}
    handles = [one.register_forward_pre_hook(look) for one in layers]
    module.eval()
    try:
        for run in passes:
            run()
    finally:
        for handle in handles:
            handle.remove()
        for one, training in modes.items():
            one.training = training
    for layer in (one for one in layers if counts[one]):
        mean, square = (sums[layer] / counts[layer]).to(layer.weight.device)
        _state(layer, mean, (square - mean.square()).clamp(min=0))


def _state(layer: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    before = (layer.running_var.double() + layer.eps).sqrt()
    slope = layer.weight.double() / before  # of the layer, which stays as it is
    layer.bias.add_((slope * (mean - layer.running_mean)).to(layer.bias))
    layer.weight.copy_(slope * (variance + layer.eps).sqrt())
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
