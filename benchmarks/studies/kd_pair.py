"""Inputs of `benchmarks.studies.kd_step`: two detectors with random weights, a batch of noise."""

from typing import NamedTuple

import torch

from compress.batch import Batch, ScoredBoxes, Targets, full_size
from compress.detector import Detector
from compress.detectors.small_pairs import NAMED, detector_settings

NUM_CLASSES = 20
BOXES_PER_PICTURE = 6
STUDENT, TEACHER = "resnet18", "resnet50"


class Setting(NamedTuple):
    """A detector family with the size of its pictures and batches."""

    pair: str
    size: int
    batch: int
    device: str


class Pair(NamedTuple):
    """Two detectors, a batch, and the optimiser that all steps share."""

    student: Detector
    teacher: Detector
    batch: Batch
    optimizer: torch.optim.Optimizer


def build(backbone: str, setting: Setting) -> Detector:
    """Build a detector with random weights; of named models, one of the two smallest."""
    settings = {"type": setting.pair, "backbone": backbone}
    if setting.pair in NAMED:
        student, teacher = NAMED[setting.pair]
        named = student if backbone == STUDENT else teacher
        settings = {"type": setting.pair, "model": named}
    config = detector_settings()[setting.pair].model_validate(settings)
    return config.build(NUM_CLASSES, (setting.size, setting.size)).to(setting.device)


def make_pair(setting: Setting) -> Pair:
    """Build both detectors and a batch; equal for equal settings."""
    torch.manual_seed(0)
    student, teacher = build(STUDENT, setting), build(TEACHER, setting)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-6, momentum=0.9)
    return Pair(student, teacher.eval().requires_grad_(False), make_batch(setting), optimizer)


def make_batch(setting: Setting) -> Batch:
    """Draw noise with boxes on it; a tenth to half of the picture wide and high.

    A teacher has found them all before.
    """
    images = torch.rand(setting.batch, 3, setting.size, setting.size)
    targets = []
    for _ in range(setting.batch):
        sides = (0.1 + 0.4 * torch.rand(BOXES_PER_PICTURE, 2)) * setting.size
        corners = torch.rand(BOXES_PER_PICTURE, 2) * (setting.size - sides)
        labels = torch.randint(0, NUM_CLASSES, (BOXES_PER_PICTURE,))
        targets.append(Targets(torch.cat([corners, corners + sides], dim=1), labels))
    return Batch(
        images=images,
        targets=tuple(targets),
        sizes=full_size(images),
        image_ids=tuple(range(setting.batch)),
        labeled=setting.batch,
        taught=tuple(ScoredBoxes(*own, torch.full((BOXES_PER_PICTURE,), 0.8)) for own in targets),
    ).to(torch.device(setting.device))
