"""The stages of a backbone: which are trained, how fast, and in which mode its BatchNorm runs."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.detector import Detector
from export.errors import RecipeError, counted

SIZES = ((64, 96), (224, 224))  # of a blank picture; some transformers take the second one alone


@dataclass(frozen=True)
class Stages:
    """The stages of a backbone, from the picture on.

    A stage is a run of layers whose maps have the same stride; the first one of a ResNet is its
    stem, as stages are counted in Detectron2 (`FREEZE_AT`).

    Attributes:
        strides: input pixels per cell, one per stage, ascending.
        modules: names of the modules of each stage inside the backbone.
    """

    strides: tuple[int, ...]
    modules: tuple[tuple[str, ...], ...]

    def number_of(self, parameter: str) -> int:
        """Return the stage, from 1, of a parameter by its name inside the backbone.

        One that no layer of a known stride holds belongs to the last.
        """
        for number, names in enumerate(self.modules, start=1):
            if any(parameter.startswith(f"{name}.") for name in names):
                return number
        return len(self.strides)


def stages_of(backbone: nn.Module) -> Stages:
    """Find the stages of a backbone by passing a blank picture through a copy without weights.

    Raises:
        RecipeError: its layers do not come in stages of one stride each.
    """
    empty = copy.deepcopy(backbone).to("meta").eval()
    for size in SIZES:
        try:
            found = _strides(empty, size)
            break
        except (AssertionError, RuntimeError, ValueError):
            continue
    else:
        raise RecipeError("the stages of this backbone cannot be found: no picture passes it alone")
    strides = [stride for _, stride in found]
    rising = [stride for stride in strides if stride is not None]
    known = getattr(backbone, "strides", ())
    if len(rising) < len(strides) or rising != sorted(rising) or not {*known} <= {*rising}:
        raise RecipeError(
            "the layers of this backbone do not come in stages of one stride each, as those of "
            "ResNet do"
        )
    kept = tuple(dict.fromkeys(rising))
    return Stages(
        kept, tuple(tuple(name for name, own in found if own == stride) for stride in kept)
    )


def _strides(backbone: nn.Module, size: tuple[int, int]) -> list[tuple[str, int | None]]:
    """Return every layer with weights or blocks, in the order in which they run, and its stride."""
    found: dict[str, int | None] = {}
    handles = []
    for name, layer in _layers(backbone):

        def look(_: nn.Module, __: object, output: object, name: str = name) -> None:
            found[name] = _stride(output, size)

        handles.append(layer.register_forward_hook(look))
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, 3, *size, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
    return list(found.items())


def _layers(
    module: nn.Module, prefix: str = "", *, outermost: bool = True
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers and blocks with weights of a network; sequences are taken apart."""
    children = list(module.named_children())
    for name, child in children:
        whole = f"{prefix}{name}"
        wraps = outermost and len(children) == 1
        if isinstance(child, nn.Sequential | nn.ModuleDict | nn.ModuleList) or wraps:
            yield from _layers(child, f"{whole}.", outermost=wraps)
        elif any(True for _ in child.parameters()):
            yield whole, child


def _stride(output: object, size: tuple[int, int]) -> int | None:
    """Return the stride of a map of a picture of `size`; None for what is no map."""
    while isinstance(output, Sequence) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 4:
        return None
    for sides in (output.shape[2:4], output.shape[1:3]):  # some transformers put channels last
        for stride in (1, 2, 4, 8, 16, 32, 64):
            if tuple(sides) == (size[0] // stride, size[1] // stride):
                return stride
    return None


def hold(detector: Detector, freeze_at: int, *, norm_eval: bool) -> str:
    """Freeze the first stages of the backbone, and the statistics of its BatchNorm layers.

    Frozen stages get no gradient and stay in eval mode while the rest trains. With `norm_eval` all
    BatchNorm layers of the backbone stay there, and their scales and biases train.

    Returns:
        What is frozen, in words; "" for nothing.

    Raises:
        RecipeError: the backbone has fewer stages, or none that can be told apart.
    """
    said = []
    if freeze_at:
        stages = stages_of(detector.backbone)
        check_number(freeze_at, stages)
        names = [name for own in stages.modules[:freeze_at] for name in own]
        whole = freeze_at == len(stages.strides)
        detector.resting = ("backbone",) if whole else tuple(f"backbone.{name}" for name in names)
        frozen = 0
        for name in detector.resting:
            part = detector.get_submodule(name).requires_grad_(False)
            frozen += sum(parameter.numel() for parameter in part.parameters())
        count = sum(parameter.numel() for parameter in detector.parameters())
        said.append(
            f"{freeze_at} of {counted(len(stages.strides), 'stage')} of the backbone (strides "
            f"{_listed(stages.strides[:freeze_at])}) frozen, {frozen / 1e6:.3f}M of "
            f"{count / 1e6:.3f}M parameters"
        )
    detector.norm_eval = norm_eval
    if norm_eval:
        said.append("statistics of the backbone's BatchNorm kept")
    detector.train(detector.training)
    return ", ".join(said)


def check_number(freeze_at: int, stages: Stages) -> None:
    """Refuse to freeze more stages than there are.

    Raises:
        RecipeError: naming both numbers.
    """
    if freeze_at > len(stages.strides):
        raise RecipeError(
            f"{freeze_at}, and the backbone has {counted(len(stages.strides), 'stage')} (strides "
            f"{_listed(stages.strides)}); set 0 to {len(stages.strides)}"
        )


def _listed(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))


def stage_rates(backbone: nn.Module, decay: float) -> dict[str, float]:
    """Return the share of the learning rate of every parameter, by its name in the backbone.

    As timm's `layer_decay` and MMDetection's `stage_wise` do: neck and head have the full rate, the
    last stage `decay` times it, each stage before it `decay` times that of the next.

    Raises:
        RecipeError: its layers do not come in stages.
    """
    stages = stages_of(backbone)
    count = len(stages.strides)
    return {
        name: decay ** (count + 1 - stages.number_of(name))
        for name, _ in backbone.named_parameters()
    }
