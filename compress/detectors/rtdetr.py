"""RT-DETR (Zhao et al. 2024) of the package `ultralytics` (extra `yolo`, AGPL-3.0)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from compress.batch import Batch, Targets
from compress.detector import (
    FEATURES,
    Candidates,
    Detector,
    DetectorSpec,
    Outputs,
    Rois,
    Wanted,
)
from compress.detectors.parts.selection import best_candidates
from compress.detectors.parts.settings import DetectorSection, check_maps
from compress.detectors.ultralytics_parts.installed import is_installed
from compress.detectors.ultralytics_parts.package import RTDETR_MODELS, load_package
from compress.detectors.ultralytics_parts.trunk import build_ultralytics
from compress.detectors.yolo import known_model
from compress.parts.processes import mean_of_batch

CLASS_ROWS = ("head.enc_score_head.", "head.dec_score_head.", "head.denoising_class_embed.")
LARGE = {"l": 33_000_000, "x": 67_000_000}  # weights


class RtdetrConfig(DetectorSection):
    """Settings of an RT-DETR; it learns with a low rate and clipped gradients (1e-4, 0.1)."""

    type: Literal["rtdetr"]
    model: str  # rtdetr-l or rtdetr-x
    # of BatchNorm's running statistics; the package's 0.03 needs some thousand steps
    bn_momentum: float = Field(default=0.1, gt=0, le=1)

    def build(self, num_classes: int, input_size: tuple[int, int]) -> "Rtdetr":
        """Build a detector with random weights for inputs of (height, width) pixels."""
        return Rtdetr(self, num_classes, input_size)

    @classmethod
    def missing_package(cls) -> str | None:
        """See `DetectorSection.missing_package`."""
        return None if is_installed() else "ultralytics"

    def largest(self) -> tuple[int, int]:
        """See `DetectorSection.largest`."""
        return 0, LARGE[self.model[-1]]

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        return known_model(model, RTDETR_MODELS)


class Rtdetr(Detector):
    """A model of the package: backbone, encoder as the neck, decoder with 300 queries as head."""

    anchors: Tensor
    valid: Tensor
    head: Any  # of the package

    def __init__(self, config: RtdetrConfig, num_classes: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        trunk = build_ultralytics(config.model, num_classes, input_size, config.bn_momentum)
        self.names = trunk.names
        self.backbone, self.neck, self.head = trunk.backbone, trunk.neck, trunk.head
        self.input_size, self.num_classes = input_size, num_classes
        self.map_sizes = trunk.map_sizes
        self.queries = int(self.head.num_queries)
        blank = torch.zeros(1, dtype=torch.float32)
        anchors, valid = self.head._generate_anchors([list(s) for s in trunk.map_sizes], blank)
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("valid", valid, persistent=False)
        provides: Wanted = frozenset({"features", "backbone", "task"})
        self.spec = DetectorSpec(
            family=config.type,
            num_classes=num_classes,
            channels=trunk.channels,
            strides=trunk.strides,
            backbone_channels=trunk.backbone_channels,
            backbone_strides=trunk.backbone_strides,
            provides=provides,
            nms_free=True,
            licence=trunk.licence,
        )

    def renamed(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate the package's names; see `Detector.renamed`."""
        return self.names.renamed(found)

    def class_rows(self) -> frozenset[str]:
        """See `Detector.class_rows`: the scores of encoder and decoder, and the noisy labels."""
        return frozenset(name for name in self.state_dict() if name.startswith(CLASS_ROWS))

    def forward(self, batch: Batch, wanted: Wanted = FEATURES, rois: Rois | None = None) -> Outputs:  # noqa: ARG002 - for two-stage families
        """Pass a batch; see `Detector.forward`.

        Denoising queries are drawn for the pictures of one process, from the global random state.
        """
        stages = self.backbone(batch.images)
        features = self.neck(stages)
        check_maps(features, self.map_sizes)
        losses: dict[str, Tensor] = {}
        if self.training or "task" in wanted:
            count = batch.labeled or len(batch.images)
            losses = self._losses(
                [feature[:count] for feature in features], batch.targets[: batch.labeled]
            )
        return Outputs(features, stages, task_losses=losses)

    def _decoded(self, features: Sequence[Tensor], targets: "dict[str, Any] | None") -> Any:
        """Run the head: boxes and logits of all layers, of the encoder, and of the denoising.

        Its cache of anchors is filled beforehand, since a traced pass would leave its own there.
        """
        head = self.head
        head.anchors, head.valid_mask = self.anchors, self.valid
        head.shapes = [list(size) for size in self.map_sizes]
        outputs = head(list(features), targets)
        return outputs if head.training else outputs[1]

    def _losses(self, features: Sequence[Tensor], targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Return the twelve terms of the package, by shorter names."""
        known = _as_package(targets, self.input_size, features[0].device) if targets else None
        boxes, logits, first_boxes, first_logits, denoising = self._decoded(features, known)
        if known is None:
            nothing = 0 * (boxes.sum() + logits.sum() + first_boxes.sum() + first_logits.sum())
            return {"class": nothing.float()}
        with torch.autocast(features[0].device.type, enabled=False):
            return self._compared(boxes, logits, first_boxes, first_logits, denoising, known)

    def _compared(
        self,
        boxes: Tensor,
        logits: Tensor,
        first_boxes: Tensor,
        first_logits: Tensor,
        denoising: "dict[str, Any] | None",
        targets: dict[str, Any],
    ) -> dict[str, Tensor]:
        noisy_boxes = noisy_logits = None
        if denoising is not None:
            noisy_boxes, boxes = torch.split(boxes.float(), denoising["dn_num_split"], dim=2)
            noisy_logits, logits = torch.split(logits.float(), denoising["dn_num_split"], dim=2)
        found: dict[str, Tensor] = load_package().query_loss(nc=self.num_classes, use_vfl=True)(
            (
                torch.cat([first_boxes[None].float(), boxes.float()]),
                torch.cat([first_logits[None].float(), logits.float()]),
            ),
            targets,
            dn_bboxes=noisy_boxes,
            dn_scores=noisy_logits,
            dn_meta=denoising,
        )
        objects = len(targets["cls"])
        return {
            name.removeprefix("loss_").replace("bbox", "box"): mean_of_batch(value, objects)
            for name, value in found.items()
        }

    def candidates(self, images: Tensor) -> Candidates:
        """Return the best (query, class) pairs; see `Detector.candidates`."""
        features = self.maps(images)
        check_maps(features, self.map_sizes)
        boxes, logits, *_ = self._decoded(features, None)
        return best_candidates(
            logits[-1].float().sigmoid(),
            boxes[-1].float(),
            self.queries,
            self._decode,
            self.input_size,
        )

    def _decode(self, boxes: Tensor, queries: Tensor) -> Tensor:
        """Return xyxy pixels of centres and sizes in shares of the input."""
        del queries
        height, width = self.input_size
        centres, half = boxes[..., :2], boxes[..., 2:] / 2
        shares = torch.cat((centres - half, centres + half), dim=-1)
        return shares * shares.new_tensor([width, height, width, height])


def _as_package(
    targets: Sequence[Targets], input_size: tuple[int, int], device: torch.device
) -> dict[str, Any]:
    """Return targets as the package's losses take them: boxes cxcywh in shares of the input."""
    height, width = input_size
    boxes = torch.cat([target.boxes for target in targets]).to(device, torch.float32)
    boxes = boxes / boxes.new_tensor([width, height, width, height])
    sizes = boxes[:, 2:] - boxes[:, :2]
    counts = [len(target.boxes) for target in targets]
    pictures = torch.arange(len(targets), device=device)
    return {
        "cls": torch.cat([target.labels for target in targets]).to(device),
        "bboxes": torch.cat((boxes[:, :2] + sizes / 2, sizes), dim=1),
        "batch_idx": pictures.repeat_interleave(torch.tensor(counts, device=device)),
        "gt_groups": counts,
    }
