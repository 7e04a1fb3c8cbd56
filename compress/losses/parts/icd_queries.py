"""ICD's queries: the objects of a picture, and sampled negatives.

Random numbers of a picture depend on the step's seed and on the picture's id, not on its position
in the batch, on other pictures or on the process.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from compress.batch import Batch, boxes_per_image
from compress.losses.parts.masks import stack_boxes
from compress.parts.draws import picture_generators
from export.config import NonNegativeFloat, PositiveShare, Section, Share
from export.errors import counted

CENTRE_FEATURES = 128  # per axis
SCALE_BUCKETS = 5  # per axis
SCALE_FACTOR, SCALE_OFFSET = 1.44, 5.0  # log2 of the size in pixels, bucket 0 below 2**6
LONGEST_PERIOD = 10000.0


BoxStatistics = tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat]


class IcdQueries(Section):
    """Number of queries per picture, and the distribution of negatives.

    Sizes and centres of negatives are shares of the picture's width and height.
    """

    # most per picture; default 300, 100 with proposals
    slots: Annotated[int, Field(ge=1, le=10_000)] | None = None
    fakes_per_instance: int = Field(default=5, ge=0, le=1000)
    jitter: float = Field(default=0.3, ge=0, lt=0.5)  # largest shift, as a share of the box
    fake_centre: tuple[Share, Share] = (0.03, 0.97)
    fake_side: tuple[PositiveShare, PositiveShare] = (0.002, 0.7)
    side_mean: PositiveShare = 0.2  # without box_statistics
    side_deviation: Share = 0.2
    class_prior: tuple[NonNegativeFloat, ...] | None = None  # K; default uniform
    # K rows: mean width, mean height, their standard deviations
    box_statistics: tuple[BoxStatistics, ...] | None = None

    def check(self, num_classes: int) -> list[str]:
        """Say which of the lists does not fit the number of classes."""
        problems = []
        for name, rows in (
            ("class_prior", self.class_prior),
            ("box_statistics", self.box_statistics),
        ):
            if rows is not None and len(rows) != num_classes:
                problems.append(
                    f"queries.{name} has {counted(len(rows), 'entry', 'entries')}, but the "
                    "detector "
                    f"has {counted(num_classes, 'class', 'classes')}; give one per class"
                )
        if self.class_prior is not None and not sum(self.class_prior):
            problems.append("queries.class_prior is 0 for every class; give one of them a share")
        return problems

    def count(self, instances: int, most: int) -> int:
        """Return how many slots a labelled picture with so many objects has."""
        return min(max(1, (1 + self.fakes_per_instance) * instances), max(most, instances))

    def prior(self, num_classes: int) -> Tensor:
        """Return (K,) shares that sum to 1."""
        shares = torch.tensor(self.class_prior or [1.0] * num_classes)
        return shares / shares.sum()

    def statistics(self, num_classes: int) -> Tensor:
        """Return (K, 4): mean width, mean height, and their standard deviations."""
        usual = (self.side_mean, self.side_mean, self.side_deviation, self.side_deviation)
        return torch.tensor(self.box_statistics or [usual] * num_classes)


@dataclass(frozen=True)
class Questions:
    """k slots per picture: its objects, then negatives, then empty slots.

    Attributes:
        labels: (B, k) int64.
        centres: (B, k, 2) x and y of a point near the middle, as a share of the picture.
        extents: (B, k, 2) width and height, as shares of the picture.
        offsets: (B, k, 4) from that point to the left, upper, right and lower edge, as shares.
        pixels: (B, k, 2) width and height in input pixels.
        real: (B, k) bool, an object of the picture.
        present: (B, k) bool, an object or a negative.
        most_real: the largest number of objects in one picture.
    """

    labels: Tensor
    centres: Tensor
    extents: Tensor
    offsets: Tensor
    pixels: Tensor
    real: Tensor
    present: Tensor
    most_real: int


@torch.no_grad()
def draw_questions(
    batch: Batch, settings: IcdQueries, most: int, prior: Tensor, statistics: Tensor
) -> Questions:
    """Draw the queries of every picture; an unlabelled picture has none.

    Args:
        batch: pictures and their objects.
        settings: distribution of the negatives.
        most: slots per picture at most, if it does not have more objects.
        prior: (K,) shares of the classes among negatives.
        statistics: (K, 4), see `IcdQueries.statistics`.
    """
    device = batch.images.device
    boxes, picture = stack_boxes(boxes_per_image(batch.targets))
    counts = [len(target.labels) for target in batch.targets]
    slots = [
        settings.count(count, most) if index < batch.labeled else 0
        for index, count in enumerate(counts)
    ]
    width = max(1, *slots)
    place = torch.cat([torch.arange(count) for count in counts]).to(device)
    noise = _noise(batch.image_ids, slots, width).to(device)  # (B, k, 7)

    size = batch.sizes.flip(1).to(boxes)[:, None]  # (B, 1, 2) width and height
    corners = boxes.new_zeros(len(counts), width, 4)
    corners[picture, place] = boxes
    labels = torch.zeros(len(counts), width, dtype=torch.int64, device=device)
    labels[picture, place] = torch.cat([target.labels for target in batch.targets])
    order = torch.arange(width, device=device)
    real = order < torch.tensor(counts, device=device)[:, None]
    present = order < torch.tensor(slots, device=device)[:, None]

    low, high = settings.fake_centre
    made_up = torch.searchsorted(prior.cumsum(0), noise[..., 0].contiguous(), right=True)
    labels = labels.where(real, made_up.clamp(max=len(prior) - 1))
    mean, deviation = statistics[labels].chunk(2, dim=-1)
    side = (mean + deviation * noise[..., 5:]).clamp(*settings.fake_side)
    middle = low + (high - low) * noise[..., 1:3]
    extents = ((corners[..., 2:] - corners[..., :2]) / size).where(real[..., None], side)
    middle = ((corners[..., 2:] + corners[..., :2]) / 2 / size).where(real[..., None], middle)
    centres = middle + extents * settings.jitter * (2 * noise[..., 3:5] - 1)
    offsets = torch.cat([centres - middle + extents / 2, middle - centres + extents / 2], dim=-1)
    return Questions(
        labels, centres, extents, offsets, extents * size, real, present, max(counts, default=0)
    )


def describe(questions: Questions, num_classes: int) -> Tensor:
    """Return (B, k, K + 266): features of class, centre and scale, the input of the decoder."""
    classes = functional.one_hot(questions.labels, num_classes)
    scale = functional.one_hot(scale_buckets(questions.pixels), SCALE_BUCKETS).flatten(-2)
    return torch.cat([classes, centre_code(questions.centres), scale], dim=-1)


def scale_buckets(pixels: Tensor) -> Tensor:
    """Return for each size in pixels its bucket, int64 in 0..4."""
    return (SCALE_FACTOR * pixels.log() - SCALE_OFFSET).trunc().clamp(0, SCALE_BUCKETS - 1).long()


def centre_code(centres: Tensor) -> Tensor:
    """Return (..., 256) for x and y in 0..1 (..., 2): per axis all sines, then all cosines."""
    steps = torch.arange(0, CENTRE_FEATURES, 2, device=centres.device) / CENTRE_FEATURES
    angles = centres[..., None] * 2 * math.pi / LONGEST_PERIOD**steps  # (..., 2, 64)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def _noise(image_ids: Sequence[int], slots: Sequence[int], width: int) -> Tensor:
    """Return (B, k, 7) on the CPU: five columns uniform in 0..1, two normal."""
    noise = torch.zeros(len(slots), width, 7)
    generators = picture_generators(image_ids, "icd")
    for row, generator, count in zip(noise, generators, slots, strict=True):
        row[:count, :5] = torch.rand(count, 5, generator=generator)
        row[:count, 5:] = torch.randn(count, 2, generator=generator)
    return noise
