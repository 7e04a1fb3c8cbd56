"""Torchvision's proposal network and box head, callable on given boxes."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from compress.detectors.parts.roi_pool import POOLED, SAMPLING_RATIO, RoiAlignForm, pool
from compress.detectors.parts.sampling import PictureSampler

RPN_FOREGROUND_IOU = 0.7
RPN_NMS_IOU = 0.7


class TwoStageHead(nn.Module):
    """The modules of both stages, as torchvision builds them."""

    def __init__(
        self,
        anchors: AnchorGenerator,
        pooled_levels: int,
        num_classes: int,
        *,
        width: int,
        rpn_depth: int,
        units: int,
        pre_nms: tuple[int, int],
        post_nms: tuple[int, int],
        rois_per_image: int,
        roi_align: RoiAlignForm,
    ) -> None:
        super().__init__()
        self.roi_align: RoiAlignForm = roi_align
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(width, anchors.num_anchors_per_location()[0], conv_depth=rpn_depth),
            fg_iou_thresh=RPN_FOREGROUND_IOU,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": pre_nms[0], "testing": pre_nms[1]},
            post_nms_top_n={"training": post_nms[0], "testing": post_nms[1]},
            nms_thresh=RPN_NMS_IOU,
        )
        self.roi = RoIHeads(
            MultiScaleRoIAlign([str(i) for i in range(pooled_levels)], POOLED, SAMPLING_RATIO),
            TwoMLPHead(width * POOLED**2, units),
            FastRCNNPredictor(units, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=rois_per_image,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
        )

        # torchvision's own draw from one generator for all pictures of a batch
        self.rpn_sampler = PictureSampler(256, 0.5, "first stage")
        self.roi_sampler = PictureSampler(rois_per_image, 0.25, "second stage")
        self.rpn.fg_bg_sampler, self.roi.fg_bg_sampler = self.rpn_sampler, self.roi_sampler

    def score(
        self, features: Sequence[Tensor], boxes: Sequence[Tensor], input_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return class logits (R, K + 1), background first, deltas (R, (K + 1) * 4), hidden (R, D).

        Args:
            features: the levels that RoIs are pooled from.
            boxes: one (R_b, 4) tensor per picture; further pictures are ignored.
            input_size: height and width in pixels.
        """
        maps = OrderedDict(
            (str(index), feature[: len(boxes)].float()) for index, feature in enumerate(features)
        )
        pooled = self.roi.box_roi_pool(maps, list(boxes), [input_size] * len(boxes))
        hidden = self.roi.box_head(pooled)
        logits, deltas = self.roi.box_predictor(hidden)
        return logits.float(), deltas.float(), hidden.float()

    def score_static(
        self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Score (B, P, 4) boxes with static shapes; see `score` and `roi_pool`."""
        images, count = boxes.shape[:2]
        pooled = pool(features, boxes, strides, self.roi_align)
        logits, deltas = self.roi.box_predictor(self.roi.box_head(pooled))
        return (
            logits.float().reshape(images, count, -1),
            deltas.float().reshape(images, count, -1),
        )

    def unused(self) -> Tensor:
        """Return a zero that is attached to every parameter of the second stage."""
        return torch.stack([p.sum() * 0 for p in self.roi.parameters()]).sum()
