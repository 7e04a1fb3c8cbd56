"""The candidates and torchvision's own NMS give what torchvision's own models give."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import batched_nms

from compress.detectors.retinanet import ASPECT_RATIOS, OCTAVES
from compress.detectors.ssd import log_odds
from tests.compress.detectors.small import CLASSES, small_detector, spread

SIZE = (64, 96)
THRESHOLD = 0.02
NMS_IOU = 0.5
KEPT = 50
PLAIN = {
    "min_size": 64,
    "max_size": 96,
    "image_mean": [0.0] * 3,  # our backbone normalises
    "image_std": [1.0] * 3,
    "score_thresh": THRESHOLD,
    "nms_thresh": NMS_IOU,
    "detections_per_img": KEPT,
}


class Trunk(nn.Module):
    """Our backbone and pyramid in torchvision's form."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector
        self.out_channels = detector.spec.channels[0]

    def forward(self, images):
        maps = self.detector.neck(self.detector.backbone(images))
        return OrderedDict((str(index), level) for index, level in enumerate(maps))


def detect(candidates, image):
    boxes, scores, labels = (part[image] for part in candidates)
    seen = scores > THRESHOLD
    boxes, scores, labels = boxes[seen], scores[seen], labels[seen]
    keep = batched_nms(boxes, scores, labels, NMS_IOU)[:KEPT]
    return boxes[keep], scores[keep], labels[keep]


def assert_same(candidates, expected, label_offset=0):
    for image, wanted in enumerate(expected):
        boxes, scores, labels = detect(candidates, image)
        assert len(scores) == len(wanted["scores"]) > 5
        torch.testing.assert_close(scores, wanted["scores"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(boxes, wanted["boxes"], rtol=1e-4, atol=1e-3)
        assert torch.equal(labels.long() + label_offset, wanted["labels"])


def images():
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(5))


def test_retinanet_detects_what_torchvisions_does():
    detector = spread(small_detector("retinanet", SIZE)).eval()
    sides = tuple(tuple(2 * s * octave for octave in OCTAVES) for s in (8, 16, 32))
    generator = AnchorGenerator(sides, (ASPECT_RATIOS,) * 3)
    theirs = RetinaNet(
        Trunk(detector), CLASSES, anchor_generator=generator, head=detector.head, **PLAIN
    ).eval()
    with torch.no_grad():
        assert_same(detector.candidates(images()), theirs(list(images())))


def test_fcos_detects_what_torchvisions_does():
    detector = spread(small_detector("fcos", SIZE)).eval()
    generator = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    theirs = FCOS(
        Trunk(detector), CLASSES, anchor_generator=generator, head=detector.head, **PLAIN
    ).eval()
    with torch.no_grad():
        assert_same(detector.candidates(images()), theirs(list(images())))


@pytest.mark.parametrize("lite", [False, True])
def test_ssd_detects_what_torchvisions_does(lite):
    detector = small_detector("ssd", (64, 64), lite=lite, min_scale=0.2, max_scale=0.8).eval()
    generator = DefaultBoxGenerator([[2, 3]] * 3, 0.2, 0.8, steps=[8, 16, 32])
    theirs = SSD(
        Trunk(detector),
        generator,
        (64, 64),
        CLASSES + 1,
        head=detector.head,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        score_thresh=THRESHOLD,
        nms_thresh=NMS_IOU,
        detections_per_img=KEPT,
        topk_candidates=1000,
    ).eval()
    square = images()[..., :64]
    with torch.no_grad():
        assert_same(detector.candidates(square), theirs(list(square)), label_offset=1)


def test_ssds_log_odds_are_those_of_its_softmax():
    logits = 2 * torch.randn(500, 4, dtype=torch.float64)
    expected = torch.logit(logits.softmax(dim=1))
    torch.testing.assert_close(log_odds(logits.float()).double(), expected, rtol=1e-4, atol=1e-4)
    # near certainty a float32 probability is 1: odds stop at 1e6 to 1, whose logarithm is 13.8
    certain = log_odds(torch.tensor([[200.0, 0.0]]))
    torch.testing.assert_close(certain, torch.tensor([[13.8155, -200.0]]))


@pytest.mark.parametrize("strides", [(8, 16, 32), (4, 8, 16, 32)])
@pytest.mark.parametrize("form", ["atlas", "masked"])
def test_faster_rcnn_detects_what_torchvisions_two_stages_do(strides, form):
    detector = small_detector("faster_rcnn", SIZE, strides=strides, proposals=40, roi_align=form)
    detector = spread(detector).eval()
    with torch.no_grad():
        detector.head.roi.box_predictor.cls_score.weight.mul_(20)
    detector.head.roi.score_thresh = THRESHOLD
    detector.head.roi.nms_thresh = NMS_IOU
    detector.head.roi.detections_per_img = KEPT
    with torch.no_grad():
        maps = Trunk(detector)(images())
        proposals, _ = detector.head.rpn(ImageList(images(), [SIZE] * 2), maps)
        wanted, _ = detector.head.roi(maps, proposals, [SIZE] * 2)
        assert_same(detector.candidates(images()), wanted, label_offset=1)


def test_fcos_matches_boxes_as_torchvision_does(monkeypatch):
    # at anchor_scale 8 the levels' limits are the 4 and 8 strides that torchvision fixes
    detector = small_detector("fcos", (128, 128), anchor_scale=8.0)
    generator = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    theirs = FCOS(Trunk(detector), CLASSES, anchor_generator=generator, head=detector.head)
    corner = torch.rand(40, 2) * 80
    boxes = torch.cat((corner, corner + 4 + torch.rand(40, 2) * 44), dim=1)
    seen = []
    monkeypatch.setattr(detector.head, "compute_loss", lambda *a: seen.append(a[3]), raising=False)
    targets = [{"boxes": boxes, "labels": torch.zeros(40, dtype=torch.int64)}]
    theirs.compute_loss(targets, {}, [detector.anchors], detector.level_counts)
    ours = detector._match(boxes)
    assert (ours >= 0).sum() > 40
    # torchvision compares areas as 1e8 - area, where float32 cannot tell 8 px^2 apart
    assert (ours == seen[0][0]).float().mean() > 0.98
    assert torch.equal(ours >= 0, seen[0][0] >= 0)
