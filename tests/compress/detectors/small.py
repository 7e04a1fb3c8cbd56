"""Detectors and batches small enough for a test."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from compress.batch import Batch, Targets, full_size
from compress.detector import Detector
from compress.detectors import DetectorConfig
from compress.detectors.small_pairs import NAMED, build_small, families, small_settings
from tests.compress.losses.scene import found_by_a_teacher

FAMILIES = families()
# The models of a package have a hundred layers and more.
EACH_FAMILY = [
    pytest.param(name, marks=pytest.mark.slow) if name in NAMED else name for name in FAMILIES
]
SIZE = (64, 96)
CLASSES = 3
CONFIG: TypeAdapter[DetectorConfig] = TypeAdapter(DetectorConfig)


def small_detector(
    family: str, size: tuple[int, int] = SIZE, classes: int = CLASSES, **changes: Any
) -> Detector:
    """Build a detector of a family, seeded."""
    torch.manual_seed(0)
    return build_small(small_settings(family, **changes), classes, size)


def small_batch(
    counts: Sequence[int] = (2, 1), labeled: int | None = None, size: tuple[int, int] = SIZE
) -> Batch:
    """Draw pictures with so many boxes each."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(len(counts), 3, *size, generator=generator)
    targets = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 30
        side = torch.rand(count, 2, generator=generator) * 20 + 12
        labels = torch.randint(0, CLASSES, (count,), generator=generator)
        targets.append(Targets(torch.cat((corner, corner + side), dim=1), labels))
    known = len(counts) if labeled is None else labeled
    ids = tuple(range(len(counts)))
    taught = tuple(found_by_a_teacher(target) for target in targets)
    return Batch(images, tuple(targets), full_size(images), ids, known, taught)


def spread(detector: Detector) -> Detector:
    """Let scores and boxes differ by place.

    Prediction layers that start small are enlarged, and running statistics that start at 0 and 1
    are those of a batch: in deep networks the maps are else nearly 0 everywhere.
    """
    with torch.no_grad():
        if detector.spec.family in NAMED:
            _take_statistics(detector)
        for name, parameter in detector.named_parameters():
            is_weight = name.endswith("weight") and parameter.ndim == 4
            if is_weight and name.startswith("head") and parameter.std() < 0.05:
                parameter.mul_(8)
    return detector


def _take_statistics(detector: Detector) -> None:
    layers = [one for one in detector.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    before = [one.momentum for one in layers]
    for one in layers:
        one.momentum = 1.0
    mode = detector.training
    with torch.random.fork_rng(devices=[]):
        detector.train()(small_batch())
    detector.train(mode)
    for one, momentum in zip(layers, before, strict=True):
        one.momentum = momentum
