"""A copy of a frozen teacher that runs faster: BatchNorm folded into packed convolutions.

The statistics of a frozen network are constants, so that a convolution and the BatchNorm after it
are one convolution with other weights (as `torch.nn.utils.fusion`). The copy also holds its weights
with channels last in memory, as the training's batches are, and for bf16 on a CPU also packed (see
`PackedConv`).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torchvision.ops import FrozenBatchNorm2d

from compress.batch import Batch, full_size, no_targets
from compress.detector import Detector
from compress.distillation.packing import PackedConv, can_pack, is_packable

NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm2d, FrozenBatchNorm2d)


def folded(teacher: Detector, size: tuple[int, int]) -> Detector:
    """Return a copy for eval mode, equal but for rounding; the teacher is left as it is.

    Folded are pairs that one pass shows to be such: a convolution whose every result goes into one
    BatchNorm and nowhere else, and that BatchNorm takes nothing else. So a convolution that
    pyramid levels share, with a BatchNorm for each of them, stays as it is.

    Args:
        teacher: network in eval mode.
        size: height and width of its input, pixels.
    """
    made = copy.deepcopy(teacher).eval()
    one = next(made.parameters())
    pairs = _pairs(made, torch.zeros(1, 3, *size, device=one.device, dtype=one.dtype))
    for conv, norm in pairs:
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
    _replace(made, {norm: nn.Identity() for _, norm in pairs})
    made.requires_grad_(False).to(memory_format=torch.channels_last)
    if can_pack():
        convs = [one for one in made.modules() if isinstance(one, nn.Conv2d) and is_packable(one)]
        _replace(made, {conv: PackedConv(conv) for conv in convs})
    return made


class _Uses(TorchFunctionMode):
    """Counts the functions that take a convolution's result, outside of layers of BatchNorm.

    Attributes:
        sources: the convolution of each result, which is held so that its id stays its own.
        taken: how often functions took each result.
        inside: whether a BatchNorm runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sources: dict[int, tuple[nn.Conv2d, Tensor]] = {}
        self.taken: dict[int, int] = {}
        self.inside = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """See `TorchFunctionMode`."""
        del types
        named = kwargs or {}
        if not self.inside:
            for one in _tensors((args, named)):
                if id(one) in self.sources:
                    self.taken[id(one)] = self.taken.get(id(one), 0) + 1
        return func(*args, **named)


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in arguments, in nested sequences and mappings too."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    if isinstance(value, list | tuple):
        return [tensor for one in value for tensor in _tensors(one)]
    return []


def _pairs(network: Detector, images: Tensor) -> list[tuple[nn.Conv2d, Any]]:
    """Return the pairs that can be folded, as one pass of `images` shows."""
    batch = Batch(images, (no_targets(images.device),), full_size(images), (0,), 1)
    uses = _Uses()
    found: dict[nn.Conv2d, set[nn.Module | None]] = {}  # what takes a convolution's results
    inputs: dict[nn.Module, set[nn.Conv2d | None]] = {}  # where a BatchNorm's inputs come from
    after: dict[int, nn.Module] = {}

    def end_conv(layer: nn.Module, _: object, result: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        uses.sources[id(result)] = (layer, result)

    def begin_norm(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        source, _ = uses.sources.get(id(given[0]), (None, None))
        inputs.setdefault(layer, set()).add(source)
        if id(given[0]) in after and source is not None:
            found.setdefault(source, set()).add(None)  # two layers take one result
        after[id(given[0])] = layer
        uses.inside = True

    def end_norm(*_: object) -> None:
        uses.inside = False

    handles = []
    for layer in network.modules():
        if type(layer) is nn.Conv2d:
            handles.append(layer.register_forward_hook(end_conv))
        elif type(layer) in NORMS and layer.running_mean is not None:
            handles.append(layer.register_forward_pre_hook(begin_norm))
            handles.append(layer.register_forward_hook(end_norm))
    try:
        # a two-stage head draws its sample
        drawn = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=drawn), torch.no_grad(), uses:
            if network.spec.finds_objects:
                network.candidates(images)
            network(batch, network.spec.provides - {"task"})
    finally:
        for handle in handles:
            handle.remove()
    for key, (conv, _) in uses.sources.items():
        norm = None if uses.taken.get(key) else after.get(key)
        found.setdefault(conv, set()).add(norm)
    pairs = []
    for conv, norms in found.items():
        norm, *more = norms
        if norm is not None and not more and inputs[norm] == {conv}:
            pairs.append((conv, norm))
    return pairs


def _replace(network: nn.Module, others: Mapping[nn.Module, nn.Module]) -> None:
    """Put others in the place of layers, wherever they stand."""
    for module in list(network.modules()):
        for name, child in module._modules.items():
            if child is not None and child in others:
                setattr(module, name, others[child])
