"""Small made-up detectors, pictures and outputs for the tests of losses."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.batch import Batch, Targets
from compress.detector import Dense, DetectorSpec, Knowledge, Outputs, Rois

EVERYTHING: frozenset[Knowledge] = frozenset({"features", "backbone", "dense", "dfl", "rois"})
NUM_CLASSES = 3
SIZE_PX = 64
STRIDES = (8, 16, 32)
ROIS_PER_PICTURE = 5
BINS = 5


def make_spec(
    channels: Sequence[int] = (4, 4, 4),
    strides: Sequence[int] = STRIDES,
    backbone_channels: Sequence[int] = (2, 3, 4, 5),
    backbone_strides: Sequence[int] = (4, 8, 16, 32),
    provides: frozenset[Knowledge] = EVERYTHING,
    num_classes: int = NUM_CLASSES,
    family: str = "made_up",
    locations: str = "one square per cell",
) -> DetectorSpec:
    return DetectorSpec(
        family=family,
        num_classes=num_classes,
        channels=tuple(channels),
        strides=tuple(strides),
        backbone_channels=tuple(backbone_channels),
        backbone_strides=tuple(backbone_strides),
        provides=provides,
        locations=locations,
    )


def make_batch(boxes: Sequence[Sequence[Sequence[float]]], size_px: int = SIZE_PX) -> Batch:
    """One list of xyxy boxes per picture; the pictures fill their square."""
    return Batch(
        images=torch.zeros(len(boxes), 3, size_px, size_px),
        targets=tuple(
            Targets(
                torch.tensor(own, dtype=torch.float32).reshape(-1, 4),
                torch.zeros(len(own), dtype=torch.int64),
            )
            for own in boxes
        ),
        sizes=torch.tensor([[size_px, size_px]] * len(boxes)),
        image_ids=tuple(range(len(boxes))),
        labeled=len(boxes),
    )


def cell_boxes(strides: Sequence[int], size_px: int) -> Tensor:
    """A square of three cells around each cell, (P, 4), level-major and row-major."""
    boxes = []
    for stride in strides:
        middle = (torch.arange(size_px // stride) + 0.5) * stride
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        centres = torch.stack([x, y], dim=-1).reshape(-1, 2)
        boxes.append(torch.cat([centres - 1.5 * stride, centres + 1.5 * stride], dim=1))
    return torch.cat(boxes)


def centres_inside(boxes: Tensor) -> "CentresInside":
    return CentresInside((boxes[:, :2] + boxes[:, 2:]) / 2)


class CentresInside:
    """An assigner: a location is positive if its centre lies inside an instance."""

    def __init__(self, centres: Tensor) -> None:
        self.centres = centres

    def __call__(self, instances: Sequence[Tensor]) -> Tensor:
        x, y = self.centres.unbind(1)  # (P,)
        masks = [
            ((x > own[:, :1]) & (x < own[:, 2:3]) & (y > own[:, 1:2]) & (y < own[:, 3:])).any(dim=0)
            for own in instances
        ]
        return torch.stack(masks)


def make_outputs(spec: DetectorSpec, pictures: int, seed: int, size_px: int = SIZE_PX) -> Outputs:
    """Random outputs of everything that a detector can provide; leaves ask for gradients."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    def maps(channels: Sequence[int], strides: Sequence[int]) -> tuple[Tensor, ...]:
        return tuple(
            draw(pictures, c, size_px // s, size_px // s)
            for c, s in zip(channels, strides, strict=True)
        )

    around = cell_boxes(spec.strides, size_px)
    locations, rows = around.shape[0], pictures * ROIS_PER_PICTURE
    jitter = 4 * torch.randn(pictures, locations, 4, generator=generator)
    labels = torch.randint(0, spec.num_classes + 1, (rows,), generator=torch.Generator())
    return Outputs(
        features=maps(spec.channels, spec.strides),
        backbone=maps(spec.backbone_channels, spec.backbone_strides),
        dense=Dense(
            class_logits=draw(pictures, locations, spec.num_classes),
            deltas=draw(pictures, locations, 4),
            boxes=around + jitter,
            assign=centres_inside(around),
            dfl_logits=draw(pictures, locations, 4 * BINS),
        ),
        rois=Rois(
            boxes=tuple(
                torch.tensor([[0.0, 0.0, 16.0, 16.0]] * ROIS_PER_PICTURE),
            )
            * pictures,
            labels=labels,
            class_logits=draw(rows, spec.num_classes + 1),
            deltas=draw(rows, spec.num_classes, 4),
        ),
    )


def leaves(outputs: Outputs) -> list[Tensor]:
    """Every tensor of `outputs` that can carry a gradient."""
    dense, rois = outputs.dense, outputs.rois
    found = [*outputs.features, *outputs.backbone]
    if dense is not None:
        found += [dense.class_logits, dense.deltas]
        found += [dense.dfl_logits] if dense.dfl_logits is not None else []
    if rois is not None:
        found += [rois.class_logits, rois.deltas]
    return found
