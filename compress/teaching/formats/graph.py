"""The input of a format, a `Graph` of a detector's file, and its result, a `Fit`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from export.artifact.manifest import Manifest, NmsSpec
from export.config import Section
from export.detections import Candidates

Floats: TypeAlias = NDArray[np.float32]
Outputs: TypeAlias = Mapping[str, NDArray[np.generic]]  # a graph's, by name
Colour = Annotated[float, Field(ge=-1000, le=1000)]
Deviation = Annotated[float, Field(ge=1e-3, le=1000)]

MOST_PAIRS = 3000  # of a picture's (box, class) pairs that go into NMS
LEVELS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))  # strides of known pyramids
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Pixels(Section):
    """How a picture becomes the tensor that a detector takes.

    Attributes:
        resize: `letterbox` keeps the picture's proportions and fills what is left, right and
            below; `stretch` does not.
        fill: grey value of the filling, 0..255.
        color: order of the channels.
        range: what a pixel of full brightness is before `mean` and `std`.
        mean: subtracted from each channel, in the order of `color`.
        std: what each channel is then divided by.
    """

    resize: Literal["letterbox", "stretch"] = "letterbox"
    fill: Annotated[int, Field(ge=0, le=255)] = 114
    color: Literal["rgb", "bgr"] = "rgb"
    range: Literal[1, 255] = 1
    mean: tuple[Colour, Colour, Colour] = (0.0, 0.0, 0.0)
    std: tuple[Deviation, Deviation, Deviation] = (1.0, 1.0, 1.0)

    def words(self) -> str:
        """Describe it in one line."""
        filled = f", filled with {self.fill}" if self.resize == "letterbox" else ""
        scaled = ""
        if any(self.mean) or self.std != (1.0, 1.0, 1.0):
            numbers = (" ".join(f"{one:g}" for one in values) for values in (self.mean, self.std))
            scaled = ", mean {}, std {}".format(*numbers)
        return f"{self.resize}{filled}, {self.color.upper()} in 0..{self.range}{scaled}"


@dataclass(frozen=True)
class Graph:
    """A detector's file as far as it can be seen without knowing what made it.

    Attributes:
        path: the file.
        image: name of the input that takes pictures.
        inputs: names of all inputs.
        height: height of its input, in pixels.
        width: width of its input, in pixels.
        outputs: what it gives for one grey picture, by name, in its own order.
        metadata: the file's own metadata.
        named: how many class names the recipe gives; None for none.
        manifest: the sidecar, if the file is an artifact of slimdet; nothing was then run.
        sidecar: why the JSON beside it is no sidecar, or that there is none.
    """

    path: Path
    image: str
    inputs: tuple[str, ...]
    height: int
    width: int
    outputs: Outputs
    metadata: Mapping[str, str] = field(default_factory=dict)
    named: int | None = None
    manifest: Manifest | None = None
    sidecar: str = ""

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the outputs, the first axis being the pictures."""
        return [output.shape for output in self.outputs.values()]

    def words(self) -> str:
        """Describe inputs and outputs in one line."""
        given = ", ".join(
            f"{name} {'x'.join(map(str, output.shape))}" for name, output in self.outputs.items()
        )
        return (
            f"{' and '.join(self.inputs)} ({self.width} x {self.height} pixels) -> "
            f"{given or 'nothing'}"
        )

    def floats(self, name: str) -> Floats:
        """Return an output as float32."""
        return self.outputs[name].astype(np.float32, copy=False)

    def only_output(self) -> tuple[str, tuple[int, int]] | str:
        """Return the name of the only output, of 3 axes, and its rows and columns; or why not."""
        if len(self.outputs) != 1:
            return f"{len(self.outputs)} outputs, and it has one"
        ((name, output),) = self.outputs.items()
        if output.ndim != 3:
            return f"an output of {output.ndim} axes, and it has 3"
        return name, (output.shape[1], output.shape[2])


@dataclass(frozen=True)
class Fit:
    """A file that a format reads.

    Attributes:
        why: what was found, in words.
        num_classes: K; None where the outputs do not show it.
        pixels: what the format usually takes; the recipe may say otherwise.
        nms: what its boxes need.
        decode: outputs by name to boxes in pixels of the input.
        classes: K names that the file states; empty where it states none.
        manifest: sidecar of an artifact of slimdet, which `export.engine.open_engine` runs.
    """

    why: str
    num_classes: int | None
    pixels: Pixels
    nms: NmsSpec
    decode: Callable[[Outputs], Candidates]
    classes: tuple[str, ...] = ()
    manifest: Manifest | None = None


# A format: what it reads of a graph, or why it does not.
Format: TypeAlias = Callable[[Graph], "Fit | str"]

NMS = NmsSpec(iou=0.6)
NO_NMS = NmsSpec(mode="none", iou=1.0)


def cells(graph: Graph, strides: Sequence[int]) -> list[int]:
    """Return how many cells the pyramid's level of each stride has."""
    return [
        math.ceil(graph.height / stride) * math.ceil(graph.width / stride) for stride in strides
    ]


def levels_of(graph: Graph, count: int, per_cell: int = 1) -> tuple[int, ...] | None:
    """Return the strides whose cells, `per_cell` places each, are `count` in all."""
    found = (strides for strides in LEVELS if per_cell * sum(cells(graph, strides)) == count)
    return next(found, None)


def centres(graph: Graph, strides: Sequence[int], offset: float) -> tuple[Floats, Floats]:
    """Return the (P, 2) xy of all cells, in pixels, and their (P, 1) strides, row by row.

    `offset` is where in its cell the place lies: 0.5 is the middle.
    """
    places, steps = [], []
    for stride in strides:
        rows = np.arange(math.ceil(graph.height / stride), dtype=np.float32)
        columns = np.arange(math.ceil(graph.width / stride), dtype=np.float32)
        x, y = np.meshgrid(columns, rows)
        place = (np.stack([x, y], axis=-1).reshape(-1, 2) + offset) * stride
        places.append(place)
        steps.append(np.full((len(place), 1), stride))
    return (
        np.concatenate(places).astype(np.float32),
        np.concatenate(steps).astype(np.float32),
    )


def corners(boxes: Floats) -> Floats:
    """Return xyxy of boxes (..., 4) given as centre x, y, width and height."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def best_pairs(boxes: Floats, scores: Floats) -> Candidates:
    """Return the best (box, class) pairs of each picture, at most `MOST_PAIRS`.

    Args:
        boxes: (B, P, 4) xyxy, pixels of the input.
        scores: (B, P, K) in 0..1.
    """
    batch, places, classes = scores.shape
    flat = scores.reshape(batch, places * classes)
    count = min(MOST_PAIRS, flat.shape[1])
    chosen = np.argpartition(-flat, count - 1, axis=1)[:, :count]
    place, label = np.divmod(chosen, classes)
    return Candidates(
        np.take_along_axis(boxes, place[..., None], axis=1),
        np.take_along_axis(flat, chosen, axis=1),
        label.astype(np.int32),
    )


def objectness_pairs(boxes: Floats, columns: Floats) -> Candidates:
    """Return `best_pairs` of rows of four numbers, objectness and the scores of the classes.

    Args:
        boxes: (B, P, 4) centre x, centre y, width and height, pixels of the input.
        columns: (B, P, 5 + K).
    """
    return best_pairs(corners(boxes), columns[..., 4:5] * columns[..., 5:])


def sigmoid(values: Floats) -> Floats:
    """Return the logistic function of `values`, without overflow."""
    shares: Floats = (0.5 * (1 + np.tanh(0.5 * values))).astype(np.float32)
    return shares


def softmax(values: Floats) -> Floats:
    """Return the shares of the last axis."""
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Floats = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return shares


def are_scores(values: Floats) -> bool:
    """Whether all values are in 0..1."""
    return bool(((values >= 0) & (values <= 1)).all())
