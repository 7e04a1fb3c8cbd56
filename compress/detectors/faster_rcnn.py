"""Faster R-CNN with a pyramid (Ren et al. 2015; Lin et al. 2017) on torchvision's two heads."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers

from compress.batch import Batch, Targets
from compress.detector import (
    FEATURES,
    Candidates,
    Dense,
    Detector,
    DetectorSpec,
    Outputs,
    Rois,
    Wanted,
    deltas_of,
)
from compress.detectors.parts.assignment import anchor_dense, as_torchvision, decode_at
from compress.detectors.parts.nms_op import Translations, onnx_translations
from compress.detectors.parts.proposals import propose, roi_candidates
from compress.detectors.parts.roi_head import RPN_FOREGROUND_IOU, TwoStageHead
from compress.detectors.parts.roi_pool import RoiAlignForm
from compress.detectors.parts.settings import DetectorSettings, build_trunk, check_maps
from compress.parts.backbones import Backbone
from compress.parts.neck import Neck
from compress.parts.processes import mean_of_batch
from export.config import Channels

ASPECT_RATIOS = (0.5, 1.0, 2.0)


class FasterRcnnConfig(DetectorSettings):
    """Settings of a Faster R-CNN; each cell has three anchors of anchor_scale strides."""

    type: Literal["faster_rcnn"]
    head_width: Channels = 1024  # units of the two fully connected layers
    head_depth: int = Field(default=1, ge=1, le=8)  # 3x3 convolutions of the proposal network
    rpn_pre_nms_train: int = Field(default=2000, ge=1, le=100_000)  # per level, before NMS
    # proposals per picture, after NMS
    rpn_post_nms_train: int = Field(default=2000, ge=1, le=100_000)
    rpn_pre_nms_test: int = Field(default=1000, ge=1, le=3840)
    proposals: int = Field(default=300, ge=1, le=3840)  # per picture in the shipped model
    # sampled for the loss of the second stage
    rois_per_image: int = Field(default=512, ge=1, le=65_536)
    # RoI pooling of the candidates, also in the exported model: same result, atlas is faster
    roi_align: RoiAlignForm = "atlas"

    def build(self, num_classes: int, input_size: tuple[int, int]) -> "FasterRcnn":
        """Build a detector with random weights for inputs of (height, width) pixels."""
        return FasterRcnn(self, num_classes, input_size)


class FasterRcnn(Detector):
    """Backbone, pyramid, proposal network and box head.

    Torchvision counts labels from 1 with background at 0; this is converted inside.
    """

    backbone: Backbone
    neck: Neck
    anchors: Tensor

    def __init__(
        self, config: FasterRcnnConfig, num_classes: int, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        trunk = build_trunk(config, input_size, finest=4, coarsest=64, extra="pool")
        strides, scale = trunk.strides, trunk.anchor_scale
        self.config, self.input_size = config, input_size
        self.map_sizes = trunk.map_sizes
        sizes = tuple((scale * stride,) for stride in strides)
        generator = AnchorGenerator(sizes, (ASPECT_RATIOS,) * len(strides))
        anchors = generator.grid_anchors(self.map_sizes, [(s, s) for s in strides])
        self.level_counts = [len(level) for level in anchors]
        self.backbone, self.neck = trunk.backbone, trunk.neck
        self.pooled = len(self.backbone.strides)  # RoIs come from these levels, not from P6
        self.head = TwoStageHead(
            generator,
            self.pooled,
            num_classes,
            width=config.width,
            rpn_depth=config.head_depth,
            units=config.head_width,
            pre_nms=(config.rpn_pre_nms_train, config.rpn_pre_nms_test),
            post_nms=(config.rpn_post_nms_train, config.proposals),
            rois_per_image=config.rois_per_image,
            roi_align=config.roi_align,
        )
        self.register_buffer("anchors", torch.cat(anchors), persistent=False)
        self.spec = DetectorSpec(
            family="faster_rcnn",
            num_classes=num_classes,
            channels=(config.width,) * len(strides),
            strides=strides,
            backbone_channels=self.backbone.channels,
            backbone_strides=self.backbone.strides,
            provides=frozenset({"features", "backbone", "anchors", "dense", "rois", "task"}),
            locations=(
                f"proposal network: 3 anchors per cell of strides {list(strides)}, side {scale:g} "
                f"strides, input {input_size[0]}x{input_size[1]}, centre and log size deltas"
            ),
            embedding_channels=config.head_width,
        )

    @property
    def onnx_translations(self) -> Translations:
        """The ONNX translations of our own operators in the candidates' graph."""
        return onnx_translations()

    def forward(self, batch: Batch, wanted: Wanted = FEATURES, rois: Rois | None = None) -> Outputs:
        """Pass a batch; see `Detector.forward`."""
        stages = self.backbone(batch.images)
        features = self.neck(stages)
        check_maps(features, self.map_sizes)
        samples = "rois" in wanted and rois is None
        learns = self.training or "task" in wanted
        dense, scored, losses = None, None, {}
        if learns or samples or "dense" in wanted:
            # torchvision's heads fail on an empty batch, so without labels all images are passed
            whole = samples or "dense" in wanted or not batch.labeled
            count = len(batch.images) if whole else batch.labeled
            objectness, deltas = self._first_stage([feature[:count] for feature in features])
            with torch.autocast(batch.images.device.type, enabled=False):
                if "dense" in wanted:
                    dense = self._dense(objectness, deltas)
                if learns:
                    losses = self._first_losses(objectness, deltas, batch)
            if learns or samples:
                seen = len(batch.images) if samples else batch.labeled
                given = rois if "rois" in wanted else None
                scored, second = self._second_stage(
                    features, objectness, deltas, batch, seen, given
                )
                losses.update(second if learns else {})
        elif rois is not None and "rois" in wanted:
            scored = self._score_too(features, [], rois)[1]
        counts = self.level_counts
        return Outputs(
            features,
            stages,
            dense,
            scored if "rois" in wanted else None,
            losses,
            anchors=torch.split(self.anchors, counts) if "anchors" in wanted else (),
        )

    def _first_stage(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return objectness (B, P) and deltas (B, P, 4), float32."""
        count = features[0].shape[0]
        flat = concat_box_prediction_layers(*self.head.rpn.head(list(features)))
        places = len(self.anchors)
        return flat[0].float().view(count, places), flat[1].float().view(count, places, 4)

    def _decode(self, deltas: Tensor, locations: Tensor) -> Tensor:
        return decode_at(self.head.rpn.box_coder, self.anchors, deltas, locations)

    def _propose(
        self, objectness: Tensor, deltas: Tensor, pre_nms: int, post_nms: int
    ) -> tuple[Tensor, Tensor]:
        """Return boxes (B, n, 4) and scores (B, n) of the best proposals; see `propose`."""
        return propose(
            objectness,
            deltas,
            self.level_counts,
            self._decode,
            self.input_size,
            pre_nms=pre_nms,
            post_nms=post_nms,
        )

    def _dense(self, objectness: Tensor, deltas: Tensor) -> Dense:
        return anchor_dense(
            objectness.unsqueeze(-1),
            deltas,
            anchors=self.anchors,
            coder=self.head.rpn.box_coder,
            matcher=self.head.rpn.proposal_matcher,
            positive_iou=RPN_FOREGROUND_IOU,
            level_counts=self.level_counts,
        )

    def _first_losses(self, objectness: Tensor, deltas: Tensor, batch: Batch) -> dict[str, Tensor]:
        count, rpn = batch.labeled, self.head.rpn
        if count == 0:  # an empty sum: 0, attached to the graph
            return {
                "rpn_objectness": mean_of_batch(objectness[:0].sum(), 0),
                "rpn_box": mean_of_batch(deltas[:0].sum(), 0),
            }
        anchors = [self.anchors] * count
        labels, boxes = rpn.assign_targets_to_anchors(
            anchors, as_torchvision(batch.targets[:count])
        )
        wanted = rpn.box_coder.encode(boxes, anchors)
        sampler = self.head.rpn_sampler.of(batch.image_ids[:count])
        object_loss, box_loss = rpn.compute_loss(
            objectness[:count].reshape(-1, 1), deltas[:count].reshape(-1, 4), labels, wanted
        )
        return {
            "rpn_objectness": mean_of_batch(object_loss, sampler.sampled),
            "rpn_box": mean_of_batch(box_loss, sampler.sampled),
        }

    @torch.no_grad()
    def _sample(
        self, objectness: Tensor, deltas: Tensor, batch: Batch, seen: int
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return of `seen` pictures the sampled boxes, torchvision's labels and wanted deltas.

        Without labels a picture's proposals are all background, whatever they are sampled against.
        """
        config, labeled = self.config, batch.labeled
        boxes, scores = self._propose(
            objectness, deltas, config.rpn_pre_nms_train, config.rpn_post_nms_train
        )
        found = [image[kept >= 0] for image, kept in zip(boxes, scores, strict=True)]
        self.head.roi_sampler.of(batch.image_ids[:seen])
        taught = [Targets(one.boxes, one.labels) for one in batch.taught[labeled:seen]]
        objects = [*batch.targets[:labeled], *(taught or batch.targets[labeled:])]
        sampled, _, labels, wanted = self.head.roi.select_training_samples(
            found, as_torchvision(objects[:seen], offset=1)
        )
        known = [*labels[:labeled], *(torch.zeros_like(one) for one in labels[labeled:])]
        return sampled, known, list(wanted)

    def _second_stage(
        self,
        features: Sequence[Tensor],
        objectness: Tensor,
        deltas: Tensor,
        batch: Batch,
        seen: int,
        given: Rois | None,
    ) -> tuple[Rois, dict[str, Tensor]]:
        """Sample and score proposals of the first `seen` pictures; losses use the labelled ones.

        Return the scored sample, or the `given` proposals scored in the same pass.
        """
        if seen == 0:
            zero = self.head.unused()  # an empty sum: 0, attached to the graph
            rois = self._no_rois(features[0])
            if given is not None:
                rois = self._score_too(features, [], given)[1]
            losses = {"roi_classification": zero, "roi_box": zero}
            return rois, {name: mean_of_batch(loss, 0) for name, loss in losses.items()}
        boxes, labels, wanted = self._sample(
            objectness[:seen].detach(), deltas[:seen].detach(), batch, seen
        )
        others = None
        if given is None:
            logits, box_deltas, hidden = self._score(features, boxes)
        else:
            (logits, box_deltas, hidden), others = self._score_too(features, boxes, given)
        rows = sum(len(image) for image in boxes[: batch.labeled])
        with torch.autocast(logits.device.type, enabled=False):
            if rows:
                class_loss, box_loss = fastrcnn_loss(
                    logits[:rows],
                    box_deltas[:rows],
                    labels[: batch.labeled],
                    wanted[: batch.labeled],
                )
            else:
                class_loss, box_loss = logits[:0].sum(), box_deltas[:0].sum()
            losses = {
                "roi_classification": mean_of_batch(class_loss, rows),
                "roi_box": mean_of_batch(box_loss, rows),
            }
        if others is not None:
            return others, losses
        flat = torch.cat(labels)
        background = self.spec.num_classes
        flat = torch.where(flat == 0, background, flat - 1)
        target_deltas = torch.cat(wanted) * (flat < background)[:, None]
        return self._as_rois(boxes, flat, logits, box_deltas, hidden, target_deltas), losses

    def _score(
        self, features: Sequence[Tensor], boxes: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.head.score(features[: self.pooled], boxes, self.input_size)

    def _score_too(
        self, features: Sequence[Tensor], boxes: Sequence[Tensor], given: Rois
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Rois]:
        """Score `boxes` and the `given` proposals in one pass.

        The gradient of the largest layer is then computed once.
        """
        pairs = list(zip_longest(boxes, given.boxes, fillvalue=given.boxes[0][:0]))
        counts = [len(side) for pair in pairs for side in pair]  # own and given, by picture
        logits, deltas, hidden = (
            torch.split(values, counts)
            for values in self._score(features, [torch.cat(pair) for pair in pairs])
        )
        own = torch.cat(logits[::2]), torch.cat(deltas[::2]), torch.cat(hidden[::2])
        theirs = torch.cat(logits[1::2]), torch.cat(deltas[1::2]), torch.cat(hidden[1::2])
        assert given.target_deltas is not None  # every RoI comes from a sampler
        return own, self._as_rois(given.boxes, given.labels, *theirs, given.target_deltas)

    def _as_rois(
        self,
        boxes: Sequence[Tensor],
        labels: Tensor,
        logits: Tensor,
        deltas: Tensor,
        embeddings: Tensor,
        target_deltas: Tensor,
    ) -> Rois:
        """Convert to `Rois`: background becomes the last logit and has no deltas."""
        logits = torch.cat((logits[:, 1:], logits[:, :1]), dim=1)
        deltas = deltas.view(len(deltas), -1, 4)[:, 1:]
        predicted: Tensor = self.head.roi.box_coder.decode_single(
            deltas_of(labels, deltas), torch.cat(list(boxes))
        )
        return Rois(
            tuple(boxes),
            labels,
            logits,
            deltas,
            target_deltas,
            embeddings,
            predicted,
            self.head.roi.box_coder.decode_single,
        )

    def _no_rois(self, like: Tensor) -> Rois:
        classes, width = self.spec.num_classes, self.spec.embedding_channels
        return Rois(
            (),
            torch.zeros(0, dtype=torch.int64, device=like.device),
            like.new_zeros(0, classes + 1),
            like.new_zeros(0, classes, 4),
            like.new_zeros(0, 4),
            like.new_zeros(0, width),
            like.new_zeros(0, 4),
            self.head.roi.box_coder.decode_single,
        )

    def candidates(self, images: Tensor) -> Candidates:
        """Return the best (proposal, class) pairs; see `Detector.candidates`."""
        features = self.maps(images)
        check_maps(features, self.map_sizes)
        boxes, scores = self._propose(
            *self._first_stage(features), self.config.rpn_pre_nms_test, self.config.proposals
        )
        logits, box_deltas = self.head.score_static(
            features[: self.pooled], boxes, self.backbone.strides
        )
        return roi_candidates(
            boxes, scores, logits, box_deltas, self.head.roi.box_coder, self.input_size
        )
