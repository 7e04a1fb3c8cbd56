"""A detector of three convolutions, and pictures for it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.artifact.manifest import InputSpec, Manifest
from export.artifact.preprocessing import Preprocessing
from export.engine import open_engine
from export.pictures.images import to_tensor

SIDE = 32
CELLS = 4  # per side


class TinyDetector(nn.Module):
    """One box per cell of a 4 x 4 grid over 32 x 32 pixels, two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.classes = nn.Conv2d(8, 2, 1)
        self.edges = nn.Conv2d(8, 4, 1)
        ticks = torch.arange(CELLS, dtype=torch.float32) * 8 + 4
        y, x = torch.meshgrid(ticks, ticks, indexing="ij")
        self.register_buffer("centres", torch.stack([x, y], dim=-1).reshape(1, -1, 2))
        with torch.no_grad():  # spread the scores, so that a wrong graph shows
            self.classes.weight.mul_(12)

    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.body(self.norm(self.stem(images)).relu()).relu()
        scores, labels = self.classes(features).flatten(2).sigmoid().max(dim=1)
        reach = self.edges(features).flatten(2).transpose(1, 2).exp() * 4
        centres = self.get_buffer("centres")
        boxes = torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=-1)
        return boxes.clamp(0, SIDE), scores, labels


def tiny_detector() -> TinyDetector:
    torch.manual_seed(0)
    return TinyDetector()


def tiny_manifest(*, dynamic_batch: bool = False, side: int = SIDE) -> Manifest:
    return Manifest(
        model="student",
        family="tiny",
        backend="onnxruntime",
        precision="fp32",
        parameters=1,
        input=InputSpec(
            height=side,
            width=side,
            dynamic_batch=dynamic_batch,
            preprocessing=Preprocessing(),
        ),
        classes=("cat", "dog"),
        category_ids=(17, 18),
    )


def canvases(count: int) -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(count)]


def in_torch(detector: TinyDetector, images: NDArray[np.float32]) -> Sequence[NDArray[np.generic]]:
    detector.eval()
    with torch.no_grad():
        return [output.numpy() for output in detector.candidates(torch.from_numpy(images))]


def assert_scores_are_near(path: Path, source: Path, tolerance: float) -> None:
    """Expect the scores of an artifact to be about those of its source, but not the same."""
    images = to_tensor(canvases(3))
    with open_engine(source, threads=1) as exact, open_engine(path, threads=1) as other:
        expected, found = exact.candidates(images), other.candidates(images)
    assert found.scores == pytest.approx(expected.scores, abs=tolerance)
    assert (found.scores != expected.scores).any()
