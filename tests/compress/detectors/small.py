"""Detectors and batches small enough for a test."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import TypeAdapter

from compress.batch import Batch, Targets, full_size
from compress.detector import Detector
from compress.detectors import DetectorConfig
from compress.methods import SMALL, detector_settings, families
from compress.parts.backbones import SlimResNetConfig

FAMILIES = families()
SIZE = (64, 96)
CLASSES = 3
CONFIG: TypeAdapter[DetectorConfig] = TypeAdapter(DetectorConfig)


def small_detector(
    family: str, size: tuple[int, int] = SIZE, classes: int = CLASSES, **changes: Any
) -> Detector:
    """Build a detector of a family, seeded."""
    section = detector_settings()[family]
    settings: dict[str, Any] = {
        "type": family,
        "backbone": SlimResNetConfig(widths=(16, 16, 16, 16)),
        **{key: value for key, value in SMALL.items() if key in section.model_fields},
        **changes,
    }
    torch.manual_seed(0)
    return section.model_validate(settings).build(classes, size)


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
    return Batch(images, tuple(targets), full_size(images), ids, known)


def spread(detector: Detector) -> Detector:
    """Enlarge prediction layers that start small, so that scores and boxes differ by place."""
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            is_weight = name.endswith("weight") and parameter.ndim == 4
            if is_weight and name.startswith("head") and parameter.std() < 0.05:
                parameter.mul_(8)
    return detector
