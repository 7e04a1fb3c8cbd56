"""ICD's decoder: predict from a teacher's maps whether and where an object is.

Its attention weights the imitation error. Sequences are the S cells of all levels, finest level
first, row-major.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.parts.icd_queries import LONGEST_PERIOD
from compress.parts.processes import over_batch


@dataclass(frozen=True)
class Cells:
    """Positions of the cells of a batch.

    Attributes:
        padding: (B, S) bool, cells outside of the picture.
        codes: per level the sine codes (B, H_l, D / 2) of rows and (B, W_l, D / 2) of columns.
    """

    padding: Tensor
    codes: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Attention:
    """Inputs of the attention of one layer, with a heads of d = D / a channels.

    Attributes:
        queries: (B, a, k, d), not scaled.
        keys: (B, a, S, d).
        values: (B, S, a, d).
        padding: (B, S) bool.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    padding: Tensor

    def logits(self, slots: int) -> Tensor:
        """Return (B, a, slots, S) of the first slots; minus infinity at padding."""
        queries = self.queries[:, :, :slots] / math.sqrt(self.queries.shape[-1])
        found = queries @ self.keys.transpose(-1, -2)
        return found.masked_fill_(self.padding[:, None, None], -math.inf)


class Perceptron(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        widths = (inputs, hidden, hidden, outputs)
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(3))

    def forward(self, values: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        first, second, third = self.layers
        found: Tensor = third(second(first(values).relu()).relu())
        return found


class DecoderLayer(nn.Module):
    """Cross-attention and feed-forward layer, each with residual and norm; no self-attention."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.output = nn.Linear(channels, channels)
        self.position = nn.Linear(channels, channels)
        self.expand = nn.Linear(channels, 4 * channels)
        self.reduce = nn.Linear(4 * channels, channels)
        self.attention_norm = nn.LayerNorm(channels)
        self.output_norm = nn.LayerNorm(channels)
        for projection in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(projection.weight)
        for projection in (self.query, self.key, self.value, self.output, self.position):
            nn.init.zeros_(projection.bias)

    def forward(self, questions: Tensor, memory: Tensor, cells: Cells) -> tuple[Tensor, Attention]:
        """Return the outputs (B, k, D) for `questions` (B, k, D), and the attention.

        Args:
            questions: queries, or the outputs of the layer before.
            memory: (B, S, D) the teacher's cells.
            cells: their positions.
        """
        split = (self.heads, -1)
        queries = self.query(questions).unflatten(-1, split).transpose(1, 2)
        keys = self.key(memory + self.places(cells)).unflatten(-1, split).transpose(1, 2)
        values = self.value(memory).unflatten(-1, split)
        attended = functional.scaled_dot_product_attention(
            queries, keys, values.transpose(1, 2), attn_mask=~cells.padding[:, None, None]
        )
        answers = self.attention_norm(questions + self.output(attended.transpose(1, 2).flatten(-2)))
        answers = self.output_norm(answers + self.reduce(self.expand(answers).relu()))
        return answers, Attention(queries, keys, values, cells.padding)

    def places(self, cells: Cells) -> Tensor:
        """Return the projected position codes (B, S, D).

        A code concatenates its row's and its column's code and the projection is linear, so
        both are projected separately: H + W products instead of H * W.
        """
        by_row, by_column = self.position.weight.chunk(2, dim=1)
        found = [
            ((rows @ by_row.T)[:, :, None] + (columns @ by_column.T)[:, None]).flatten(1, 2)
            for rows, columns in cells.codes
        ]
        return torch.cat(found, dim=1) + self.position.bias


def join_levels(levels: Sequence[Tensor], layers: Iterable[nn.Module] = ()) -> Tensor:
    """Return L tensors (B, S_l, C_l) as one (B, S, D).

    Args:
        levels: cells of each level; their channels are equal where no `layers` are given.
        layers: one per level, from its channels to D.
    """
    given = tuple(layers)
    if given:
        levels = [layer(level) for layer, level in zip(given, levels, strict=True)]
    return torch.cat(list(levels), dim=1)


def locate_cells(
    sizes: Tensor,
    maps: Sequence[tuple[int, int]],
    input_size: tuple[int, int],
    channels: int,
) -> Cells:
    """Find padding and position codes of all cells.

    A cell's stride is averaged over both axes, as in the authors' code; a cell is padding if it
    begins outside of the picture.

    Args:
        sizes: (B, 2) height and width of the pictures without their padding.
        maps: height and width in cells of the L levels.
        input_size: height and width with padding.
        channels: D.
    """
    padding, codes = [], []
    for height, width in maps:
        stride = (input_size[0] / height + input_size[1] / width) / 2
        rows, columns = (sizes.double() / stride).ceil().long().unbind(1)  # (B,)
        y, x = (torch.arange(count, device=sizes.device) for count in (height, width))
        outside = (y >= rows[:, None])[:, :, None] | (x >= columns[:, None])[:, None]
        padding.append(outside.flatten(1))
        codes.append((_axis_code(y, rows, channels // 2), _axis_code(x, columns, channels // 2)))
    return Cells(torch.cat(padding, dim=1), tuple(codes))


def _axis_code(places: Tensor, count: Tensor, features: int) -> Tensor:
    """Return (B, n, features): sines and cosines in turns of 0..n-1 as a share of `count` (B,)."""
    passed = (places + 1).minimum(count[:, None].clamp(max=len(places))).float()  # (B, n)
    share = passed / (passed[:, -1:] + 1e-6) * 2 * math.pi
    steps = torch.arange(0, features, 2, device=places.device) / features
    angles = share[..., None] / LONGEST_PERIOD**steps
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def auxiliary_losses(
    predictions: Tensor, real: Tensor, present: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the classification error of presence and the regression error of the edges.

    Args:
        predictions: (B, k, 5) logit of presence, then left, upper, right and lower edge.
        real: (B, k) bool.
        present: (B, k) bool.
        offsets: (B, k, 4) from the query point to the edges, as shares of the picture.
    """
    there = functional.binary_cross_entropy_with_logits(
        predictions[..., 0], real.to(predictions), reduction="none"
    )
    extents = (offsets[..., :2] + offsets[..., 2:]).clamp(min=1e-7).repeat(1, 1, 2)
    error = ((predictions[..., 1:].sigmoid() - offsets).abs() / extents).sum(dim=-1)
    return (
        over_batch((there * present).sum(), present.sum()),
        over_batch((error * real).sum(), real.sum(), least=1e-6),
    )


def instance_weights(attention: Attention, real: Tensor, temperature: float) -> Tensor:
    """Return (B, a, S): attention to each cell, summed over the objects of a picture.

    Args:
        attention: attention of one layer.
        real: (B, n) bool, for the first n slots.
        temperature: temperature of the attention.
    """
    seen = (attention.logits(real.shape[1]) / temperature).softmax(dim=-1)
    return torch.einsum("nakx,nk->nax", seen, real.to(seen))
