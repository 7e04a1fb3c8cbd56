"""KD-DETR: ask the student's decoder the teacher's queries (Wang et al., CVPR 2024).

Two decoders answer their own queries in no common order, so their answers cannot be compared. The
teacher's queries are therefore passed through the student's decoder too, beside its own: content
and reference box of query i give the student's answer i, compared with the teacher's answer i.
`random` further queries, drawn anew for each picture in every step, are passed through both. Such
probes see one another, but not the student's own queries, which learn from the labels alone.

Of each set of probes, with w_i = max_k sigmoid(z_ik) of the teacher's class logits z_i, summed over
the student's layers, each against the teacher's last layer:
class = sum_i w_i KL(teacher_i | student_i) / sum_i w_i, and with the same weights `l1`, the mean
distance of the boxes' centres and sides in shares of the input, and `giou`, 1 - GIoU. Weights 1, 5
and 2, the weighting, the layers and 300 random queries are those of the code that was released for
DAB-DETR. It departs from that code, whose class term is a softmax over the classes at temperature
10, averaged over classes and summed over queries: the default here compares each class with its
complement, as RT-DETR's scores are sigmoids, and is a mean over the queries as well. DAB-DETR's
queries have no content; here random content is drawn from the normal distribution too, and a linear
layer brings content to the student's width where the widths differ.

A student without queries (a dense head) is compared in a form that is reconstructed, for that code
has none. The teacher's answers of at least `min_score` are given to the student's own assigner as
if they were the objects. Where it makes a location positive, the student's class scores and box
there are compared with the answer's by the same terms. Of a two-stage student the proposal network
learns so, its object score from the answer's best class score.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from compress.batch import Batch, Targets
from compress.detector import Dense, DetectorSpec, Knowledge, Outputs, Queries
from compress.losses.parts.levels import check_classes
from compress.losses.parts.loss import (
    DistillationLoss,
    LossSection,
    Source,
    check_weights,
    weigh,
)
from compress.losses.parts.responses import divergence, giou_error, two_way_divergence
from compress.parts.draws import picture_generators
from compress.parts.processes import over_batch
from export.config import NonNegativeFloat, Temperature

LEAST_WEIGHT = 1e-6  # of all probes
LEAST_SIDE_PX = 1.0  # of a box that is given to an assigner


class KdDetrConfig(LossSection):
    """Weights of the terms, and the choice of probes."""

    written_from: ClassVar[Source] = "reconstructed in part"

    type: Literal["kddetr"]
    class_weight: NonNegativeFloat = 1.0
    l1_weight: NonNegativeFloat = 5.0
    giou_weight: NonNegativeFloat = 2.0
    scores: Literal["sigmoid", "softmax"] = "sigmoid"
    temperature: Temperature = 1.0  # the class term is multiplied by its square
    layers: Literal["all", "last"] = "all"  # of the student's decoder, against the teacher's last
    # further queries; 0: the teacher's alone, for about half the extra time
    random: int = Field(default=300, ge=0, le=3000)
    # of answers that teach a dense head; lower for a weak teacher
    min_score: float = Field(default=0.3, ge=0, lt=1)

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return what to ask of the student: queries if it has them, else dense predictions."""
        del teacher
        return frozenset({"queries" if "queries" in student.provides else "dense"})

    def teacher_needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return queries."""
        del student, teacher
        return frozenset({"queries"})

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = check_classes(student, teacher)
        of_objects = scores_objects(student)
        if self.scores == "softmax" and (student.num_classes == 1 or of_objects):
            what = "proposal network" if of_objects else "head"
            problems.append(
                f"a softmax over the one score of the student's {what} is 1 whatever its logit, so "
                "there is nothing to imitate; use scores: sigmoid"
            )
        return problems + check_weights(self.class_weight, self.l1_weight, self.giou_weight)

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "KdDetr":
        """Return the loss for this pair."""
        return KdDetr(self, student, teacher)


def scores_objects(student: DetectorSpec) -> bool:
    """Say whether the student's compared predictions only tell objects from background."""
    return "rois" in student.provides and "queries" not in student.provides


class KdDetr(DistillationLoss[KdDetrConfig]):
    """Terms `class`, `l1` and `giou` of the teacher's queries, and of random ones."""

    def __init__(self, config: KdDetrConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.of_objects = scores_objects(student)
        widths = teacher.query_channels, student.query_channels
        alike = "queries" not in self.needs or widths[0] == widths[1]
        self.align = nn.Identity() if alike else nn.Linear(*widths)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `class`, `l1` and `giou`, and `random_` and the same of random queries."""
        theirs = teacher.queries
        if theirs is None:
            raise ValueError("KD-DETR's probes are the teacher's queries; ask it for `queries`")
        size = batch.images.shape[-2], batch.images.shape[-1]
        if "dense" in self.needs:
            if student.dense is None:
                raise ValueError("a student without queries is compared by its `dense` predictions")
            return self.at_locations(student.dense, theirs, size)
        if student.queries is None:
            raise ValueError("KD-DETR passes queries to the student; ask it for `queries`")
        terms = self.answers(student.queries, theirs, size)
        if self.config.random:
            drawn = theirs.probe(*self.draw(theirs, batch.image_ids))
            found = self.answers(student.queries, drawn, size)
            terms |= {f"random_{name}": value for name, value in found.items()}
        return terms

    def answers(
        self, student: Queries, teacher: Queries, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Compare the student's answers to the teacher's queries with the teacher's answers."""
        own = student.probe(self.align(teacher.content), teacher.references)
        first = -1 if self.config.layers == "last" else 0
        return self.compare(
            own.class_logits[first:],
            own.boxes[first:],
            teacher.class_logits[-1],
            teacher.boxes[-1],
            size,
        )

    def draw(self, like: Queries, image_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return content (B, R, D) and references (B, R, 4) of random queries."""
        shape = self.config.random, like.content.shape[-1] + 4
        drawn = torch.stack(
            [torch.randn(shape, generator=own) for own in picture_generators(image_ids, "kddetr")]
        ).to(like.content)
        return drawn[..., :-4], drawn[..., -4:]

    def at_locations(
        self, student: Dense, teacher: Queries, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Compare the locations that the student's assigner gives the teacher's answers."""
        logits, boxes = teacher.class_logits[-1], teacher.boxes[-1]  # (B, Q, K), (B, Q, 4)
        if self.of_objects:
            logits = logits.amax(dim=-1, keepdim=True)
        scores, labels = logits.sigmoid().max(dim=-1)
        inside = clip_boxes_to_image(boxes, size)
        sides = inside[..., 2:] - inside[..., :2]
        kept = (scores >= self.config.min_score) & (sides >= LEAST_SIDE_PX).all(dim=-1)  # (B, Q)
        found = [
            Targets(one[chosen], label[chosen])
            for one, label, chosen in zip(inside, labels, kept, strict=True)
        ]
        matched = student.match(found)  # (B, P)
        positive = matched >= 0
        answer = matched[positive]  # (R,)
        return self.compare(
            student.class_logits[positive],
            student.boxes[positive],
            logits[kept][answer],
            boxes[kept][answer],
            size,
        )

    def compare(
        self,
        own_logits: Tensor,
        own_boxes: Tensor,
        logits: Tensor,
        boxes: Tensor,
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Return the three terms.

        Args:
            own_logits: (N, ..., K) of the student's N layers, or (..., K).
            own_boxes: (N, ..., 4) or (..., 4) xyxy pixels.
            logits: (..., K) of the teacher.
            boxes: (..., 4) of the teacher.
            size: height and width of the input, pixels.
        """
        config = self.config
        weight = logits.sigmoid().amax(dim=-1)  # (...)
        logits, boxes = logits.expand_as(own_logits), boxes.expand_as(own_boxes)
        apart = divergence if config.scores == "softmax" else two_way_divergence
        values = {
            "class": (config.class_weight, apart(own_logits, logits, config.temperature)),
            "l1": (
                config.l1_weight,
                (in_shares(own_boxes, size) - in_shares(boxes, size)).abs().mean(dim=-1),
            ),
            "giou": (config.giou_weight, giou_error(own_boxes, boxes)),
        }
        return weigh(
            {
                name: (
                    factor,
                    over_batch((weight * value).sum(), weight.sum(), least=LEAST_WEIGHT),
                )
                for name, (factor, value) in values.items()
            }
        )


def in_shares(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return xyxy pixels (..., 4) as centre x, y, width and height in shares of the input."""
    corners = boxes / boxes.new_tensor([size[1], size[0], size[1], size[0]])
    low, high = corners[..., :2], corners[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)
