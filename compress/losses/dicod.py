"""DICOD: distil a classifier of object crops into the detector (Guo et al. 2021, "DICOD").

The class term follows the authors' code: the target of every location or proposal assigned to an
object is the classifier's logits on the object's crop. The localisation term is reconstructed: the
crops of the predicted and the target box are compared, as pixels and as the classifier's last map,
each pooled to `pooled` cells. A two-stage student's box is decoded with the deltas of the object's
class. Only the `boxes_per_object` best predictions of each object are compared, since each costs a
forward pass of the classifier. The teacher of the recipe is not used.
"""

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from compress.batch import Batch, boxes_per_image
from compress.detector import DetectorSpec, Knowledge, Outputs, Rois
from compress.losses.parts.classifier import Classifier, ClassifierConfig
from compress.losses.parts.loss import DistillationLoss, LossSection, RoiSource, Source, weigh
from compress.losses.parts.masks import stack_boxes
from compress.parts.crops import crop_boxes
from compress.parts.processes import over_batch
from export.config import Cells, NonNegativeFloat, PositiveInt, Temperature

Variant = Literal["kl-ce softmax", "kl-ce sigmoid", "kl-bce sigmoid"]
EPSILON = 1e-10


class DicodConfig(LossSection):
    """Settings of the classifier, and the weights of both terms."""

    written_from: ClassVar[Source] = "reconstructed in part"

    type: Literal["dicod"]
    classifier: ClassifierConfig = ClassifierConfig()
    class_weight: NonNegativeFloat = 0.4
    temperature: Temperature = 2.0
    sigmoid: Literal["kl-ce", "kl-bce"] = "kl-ce"  # for dense heads
    localization_weight: NonNegativeFloat = 0.15
    boxes_per_object: PositiveInt | None = 1  # None: all predictions assigned to it
    pooled: tuple[Cells, Cells] = (8, 4)  # cells of the pictures, of the last map
    roi_source: RoiSource = "teacher"  # read by other losses only

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:  # noqa: ARG002 - the student's alone
        """Return what to ask of the student: proposals if it has them, else dense predictions."""
        return frozenset({"features", "rois" if "rois" in student.provides else "dense"})

    def teacher_needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:  # noqa: ARG002 - see above
        """Return the empty set: the teacher is the classifier."""
        return frozenset()

    def wanted_classifier(self) -> ClassifierConfig:
        """Return the classifier's settings."""
        return self.classifier

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:  # noqa: ARG002 - see above
        """Return the problems of these settings with this student."""
        if self.class_weight or self.localization_weight:
            return []
        return ["all weights are 0, so nothing is learnt; give one or drop the loss"]

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Dicod":
        """Return the loss for this student; call `use_classifier` before using it."""
        return Dicod(self, student, teacher)


class Dicod(DistillationLoss[DicodConfig]):
    """Terms `class` and `localization` of the positives; 0 without any."""

    def __init__(self, config: DicodConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.num_classes = student.num_classes
        self._classifier: tuple[Classifier, ...] = ()  # a tuple hides it from nn.Module

    def use_classifier(self, classifier: Classifier) -> None:
        """Take the trained classifier; see `DistillationLoss.use_classifier`."""
        self._classifier = (classifier.eval().requires_grad_(False),)

    def compared(self, rois: Rois) -> Tensor:
        """Return the proposals of objects; see `DistillationLoss.compared`."""
        return rois.labels < self.num_classes

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `class` and `localization`; unlabelled pictures add nothing."""
        del teacher
        (classifier,) = self._classifier
        config, boxes = self.config, boxes_per_image(batch.targets)
        known = look_at(classifier, crop_boxes(batch.images, boxes, classifier.crop))
        rois, dense = student.rois, student.dense
        if rois is not None:
            logits, predicted, owner = rois.class_logits, rois.predicted, roi_owners(rois, batch)
            variant: Variant = "kl-ce softmax"
        else:
            assert dense is not None
            logits, predicted = dense.class_logits.flatten(0, 1), dense.boxes.flatten(0, 1)
            owner = dense.match(
                batch.targets
            ).flatten()  # an object of all pictures; negative: none
            variant = "kl-ce sigmoid" if config.sigmoid == "kl-ce" else "kl-bce sigmoid"
        positive = owner >= 0
        in_class = class_term(
            logits[positive],
            known.logits[owner[positive]],
            variant=variant,
            temperature=config.temperature,
            count=positive.sum(),
        )
        terms = {"class": (config.class_weight, in_class)}
        if config.localization_weight:
            if predicted is None:
                raise ValueError("DICOD's localisation term needs RoIs with `predicted` boxes")
            found = self._localization(predicted, owner, batch, known)
            terms["localization"] = (config.localization_weight, found)
        return weigh(terms)

    def _localization(
        self, predicted: Tensor, owner: Tensor, batch: Batch, known: "Look"
    ) -> Tensor:
        """Return the mean absolute difference between predicted and target crops.

        Args:
            predicted: (R, 4) xyxy, of all pictures, one after the other.
            owner: (R,) index of their object over all pictures; negative for none.
            batch: images to crop from.
            known: crops and classifier outputs of the objects.
        """
        targets, picture = stack_boxes(boxes_per_image(batch.targets))
        places = (owner >= 0).nonzero()[:, 0]
        if self.config.boxes_per_object is not None:
            overlap = paired_iou(predicted[places].detach(), targets[owner[places]])
            best = best_of_each(owner[places], overlap, self.config.boxes_per_object)
            places = places[best]
        if not len(places):
            return over_batch(0 * predicted.sum(), 0)
        objects = owner[places]
        counts = torch.bincount(picture[objects], minlength=len(batch.images)).tolist()
        (classifier,) = self._classifier
        seen = crop_boxes(batch.images, torch.split(predicted[places], counts), classifier.crop)
        pairs = ((seen, known.crops[objects]), (classifier.last_map(seen), known.maps[objects]))
        errors = [
            (functional.adaptive_avg_pool2d(a, cells) - functional.adaptive_avg_pool2d(b, cells))
            .abs()
            .mean(dim=(1, 2, 3))
            for (a, b), cells in zip(pairs, self.config.pooled, strict=True)
        ]
        return over_batch(torch.stack(errors).sum(), len(places))


def class_term(
    student: Tensor, teacher: Tensor, *, variant: Variant, temperature: float, count: Tensor
) -> Tensor:
    """Return temperature squared times the rows' divergence, divided by max(`count`, 1).

    Args:
        student: logits (R, K), or (R, K + 1) with background last for softmax.
        teacher: logits (R, K) of the classifier.
        variant: softmax over K + 1 (the classifier's probability of background is 0); sigmoids
            normalised to a sum of 1; or binary per class, averaged over classes.
        temperature: divisor of both logits.
        count: number of positives, a scalar.
    """
    own, other = student / temperature, teacher / temperature
    if variant == "kl-ce softmax":
        rows = _divergence(own.softmax(1), functional.pad(other.softmax(1), (0, 1))).sum(1)
    elif variant == "kl-ce sigmoid":
        own, other = (functional.normalize(p.sigmoid(), p=1, dim=1) for p in (own, other))
        rows = _divergence(own, other).sum(1)
    else:
        own, other = own.sigmoid(), other.sigmoid()
        rows = (_divergence(own, other) + _divergence(1 - own, 1 - other)).mean(1)
    return over_batch(temperature**2 * rows.sum(), count)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    own, other = student + EPSILON, teacher + EPSILON
    return other * (other.log() - own.log())


class Look(NamedTuple):
    """Crops of n objects and the classifier's outputs on them, without gradients.

    Attributes:
        crops: (n, 3, size, size).
        maps: (n, C, h, w), the last feature map.
        logits: (n, K) class logits.
    """

    crops: Tensor
    maps: Tensor
    logits: Tensor


@torch.no_grad()
def look_at(classifier: Classifier, crops: Tensor) -> Look:
    """Run the classifier on crops of objects; it is not run on an empty batch."""
    if not len(crops):
        return Look(crops, crops, crops.new_zeros(0, classifier.class_logits.out_features))
    maps = classifier.last_map(crops)
    return Look(crops, maps, classifier.classify(maps).float())


def roi_owners(rois: Rois, batch: Batch) -> Tensor:
    """Return (R,): the object that each positive proposal was assigned to; -1 for background.

    A sampled proposal keeps only the class of its object, so the owner is the object of that class
    and picture with the highest IoU.
    """
    boxes, picture = stack_boxes(boxes_per_image(batch.targets))
    proposals, origin = stack_boxes(rois.boxes)
    if not len(boxes) or not len(proposals):
        return torch.full_like(rois.labels, -1)
    labels = torch.cat([target.labels for target in batch.targets])
    fits = (rois.labels[:, None] == labels) & (origin[:, None] == picture)
    overlap, owner = box_iou(proposals, boxes).where(fits, -1.0).max(dim=1)
    return torch.where(overlap >= 0, owner, -1)


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return (n,) overlaps of boxes (n, 4) with others (n, 4), row by row."""
    low, high = (
        torch.maximum(boxes[:, :2], others[:, :2]),
        torch.minimum(boxes[:, 2:], others[:, 2:]),
    )
    inside = (high - low).clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) for b in (boxes, others)]
    return inside / (areas[0] + areas[1] - inside).clamp(min=EPSILON)


def best_of_each(owner: Tensor, score: Tensor, count: int) -> Tensor:
    """Return the rows of the `count` highest scores of every owner, owner by owner."""
    by_score = score.argsort(descending=True, stable=True)
    order = by_score[owner[by_score].argsort(stable=True)]
    sorted_owner = owner[order]
    first = torch.searchsorted(sorted_owner, sorted_owner)  # where each owner's rows begin
    rank = torch.arange(len(order), device=order.device) - first
    return order[rank < count]
