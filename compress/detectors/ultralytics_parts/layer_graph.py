"""Layers that take the outputs of earlier layers by number, as the models of `ultralytics` do."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class LayerGraph(nn.Module):
    """Consecutive layers of a network, under their numbers in it.

    Args:
        layers: number -> layer, in the order in which they run.
        sources: number -> numbers of the outputs that the layer takes.
        given: numbers of the outputs that the inputs of `forward` are, in their order.
        kept: numbers of the outputs that `forward` returns, in their order.
    """

    def __init__(
        self,
        layers: Mapping[int, nn.Module],
        sources: Mapping[int, Sequence[int]],
        given: Sequence[int],
        kept: Sequence[int],
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(number): layer for number, layer in layers.items()})
        self.sources = {number: tuple(sources[number]) for number in layers}
        self.given, self.kept = tuple(given), tuple(kept)
        # what no later layer takes is dropped at once
        self.last_use = {number: number for number in layers} | {
            source: user for user, taken in self.sources.items() for source in taken
        }

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the kept outputs, as many tensors as `kept` has numbers."""
        first = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        outputs: dict[int, Tensor] = dict(zip(self.given, first, strict=True))
        for name, layer in self.layers.items():
            number = int(name)
            taken = [outputs[source] for source in self.sources[number]]
            outputs[number] = layer(taken if len(taken) > 1 else taken[0])
            for source in (*self.sources[number], number):
                if self.last_use[source] <= number and source not in self.kept:
                    outputs.pop(source, None)
        return tuple(outputs[number] for number in self.kept)


def channels_and_strides(
    graphs: Sequence[LayerGraph], size: int = 64
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the channels of what each graph returns and its strides, by passing a blank picture.

    Args:
        graphs: the first takes (B, 3, H, W), each other what the one before returns.
        size: side of the picture in pixels; a multiple of every stride.
    """
    weight = next(graphs[0].parameters())
    maps: Sequence[Tensor] = (torch.zeros(1, 3, size, size, device=weight.device),)
    modes = [graph.training for graph in graphs]
    found = []
    with torch.no_grad():
        for graph in graphs:
            maps = graph.eval()(maps)
            found.append(
                (
                    tuple(one.shape[1] for one in maps),
                    tuple(size // one.shape[-1] for one in maps),
                )
            )
    for graph, mode in zip(graphs, modes, strict=True):
        graph.train(mode)
    return found
