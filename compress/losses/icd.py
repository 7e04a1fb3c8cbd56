"""ICD: imitate where an instance is recognised (Kang et al., NeurIPS 2021).

A decoder is trained on the frozen teacher's maps to tell a picture's objects from sampled negatives
and to predict their edges; its attention weights, per cell, the error between projected values of
student and teacher. As in the authors' code the student uses the same attention and has a value
projection of its own. Departs from that code in three places: scale features use each picture's
own size, unlabelled pictures have no queries, and the delay is at most a quarter of the run.

The cells of all levels are one sequence, of the teacher's channels. Where the teacher's levels
differ in channels, as YOLO's do, a linear layer per level brings its cells to `width` first; these
layers belong to the decoder, so the auxiliary terms train them on the frozen maps, and imitation
does not: its target cannot follow the student. Where either side's levels differ, the student has a
value projection per level too.

The two `auxiliary` terms train the decoder only, by its own optimiser.
`weight`, its schedule and `weight: auto` do not apply to these terms; AdamW and the gradient
clipping to `auxiliary_clip` would cancel most of a factor anyway.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.icd_decoder import (
    Attention,
    Cells,
    DecoderLayer,
    Perceptron,
    auxiliary_losses,
    instance_weights,
    join_levels,
    locate_cells,
)
from compress.losses.parts.icd_queries import (
    CENTRE_FEATURES,
    SCALE_BUCKETS,
    IcdQueries,
    Questions,
    describe,
    draw_questions,
)
from compress.losses.parts.levels import check_levels, pair_levels
from compress.losses.parts.loss import DistillationLoss, LossSection, weigh
from compress.parts.processes import (
    mean_of_batch,
    over_batch,
    process_count,
    sum_over_processes,
)
from compress.training.objective import SeparateTraining
from export.config import Channels, NonNegativeFloat, NonNegativeInt, PositiveFloat, Temperature

USUAL_HEADS, LEAST_HEAD_CHANNELS = 8, 4
USUAL_DELAY_STEPS = 1000
USUAL_WIDTH = 256  # of the paper's pyramids
ErrorForm = Literal["squared", "absolute", "smooth", "root"]


class IcdConfig(LossSection):
    """The decoder, its queries and training, and the weight of imitation.

    The authors initialise from the teacher's neck and head: the recipe's `inherit`.
    """

    type: Literal["icd"]
    instance_weight: PositiveFloat | None = None  # default 8, 3 with proposals
    temperature: Temperature = 1.0  # of the attention that weighs cells
    error: ErrorForm = "squared"
    heads: Annotated[int, Field(ge=1, le=256)] | None = None  # default 8, fewer below 32 channels
    layers: int = Field(default=1, ge=1, le=64)
    # of the decoder, to which each level is projected; default: the teacher's own channels, or if
    # its levels differ, the widest's, but at most 256
    width: Channels | None = None
    queries: IcdQueries = IcdQueries()
    confidence_weight: NonNegativeFloat = 1.0
    box_weight: NonNegativeFloat = 1.0
    auxiliary_lr: PositiveFloat = 1e-4  # AdamW with a cosine schedule
    auxiliary_weight_decay: NonNegativeFloat = 1e-4
    auxiliary_clip: PositiveFloat | None = 0.01  # L2 norm of its gradients
    # Steps from the start in which the student gets no gradient, but its projection is trained;
    # default 1000, but at most a quarter of the run.
    delay_steps: NonNegativeInt | None = None

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = check_levels(student, teacher)
        if problems:
            return problems
        problems = self.queries.check(student.num_classes)
        pairs = pair_levels(student, teacher).channels(student.channels, teacher.channels)
        channels = [other for _, other in pairs]
        width = self.decoder_width(channels)
        side = "teacher" if {*channels} == {width} else "decoder"
        if width % 4:
            problems.append(
                f"the position code needs channels by fours; the {side} has {width}; set width to "
                "a multiple of 4"
            )
        if self.heads is not None and (width % self.heads or width // self.heads < 2):
            problems.append(
                f"heads: {self.heads} does not divide the {side}'s {width} channels into equal "
                "parts of two or more; leave it out for a number that does"
            )
        if not self.confidence_weight and not self.box_weight:
            problems.append(
                "confidence_weight and box_weight are 0, so the decoder never learns where to "
                "look; give one of them"
            )
        return problems

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Icd":
        """Return the loss for this pair."""
        return Icd(self, student, teacher)

    def decoder_width(self, channels: Sequence[int]) -> int:
        """Return D for a teacher whose paired levels have these channels."""
        if self.width is not None:
            return self.width
        if len(set(channels)) == 1:
            return channels[0]
        return -(-min(max(channels), USUAL_WIDTH) // 4) * 4

    def head_count(self, width: int) -> int:
        """Return the number of heads for so many channels."""
        fitting = math.gcd(USUAL_HEADS, max(1, width // LEAST_HEAD_CHANNELS))
        return fitting if self.heads is None else self.heads


class Decoder(nn.Module):
    """Query embedding, decoder and predictor: what the auxiliary terms train."""

    prior: Tensor
    statistics: Tensor

    def __init__(self, config: IcdConfig, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.width = width = config.decoder_width(channels)
        projected = channels if {*channels} != {width} else ()
        self.inputs = nn.ModuleList(nn.Linear(own, width) for own in projected)
        described = num_classes + 2 * CENTRE_FEATURES + 2 * SCALE_BUCKETS
        self.ask = Perceptron(described, width, width)
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.head_count(width)) for _ in range(config.layers)
        )
        self.predict = Perceptron(width, width, 5)
        self.register_buffer("prior", config.queries.prior(num_classes), persistent=False)
        self.register_buffer("statistics", config.queries.statistics(num_classes), persistent=False)

    def forward(
        self, questions: Questions, levels: Sequence[Tensor], cells: Cells
    ) -> tuple[Tensor, list[Attention]]:
        """Return predictions (B, k, 5) and each layer's look.

        Args:
            questions: k queries per picture.
            levels: L tensors (B, S_l, C_l), the teacher's cells.
            cells: positions of all S cells.
        """
        memory = join_levels(levels, self.inputs)
        answers = self.ask(describe(questions, self.num_classes))
        looks = []
        for layer in self.layers:
            answers, look = layer(answers, memory, cells)
            looks.append(look)
        return self.predict(answers), looks


class Icd(DistillationLoss[IcdConfig]):
    """The imitation term, and the two auxiliary terms that train the decoder."""

    unweighted = frozenset({"auxiliary_confidence", "auxiliary_box"})

    def __init__(self, config: IcdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.levels = pair_levels(student, teacher)
        channels = self.levels.channels(student.channels, teacher.channels)
        two_stage = "rois" in student.provides
        self.most = config.queries.slots or (100 if two_stage else 300)
        self.instance_weight = config.instance_weight or (3.0 if two_stage else 8.0)
        self.decoder = Decoder(config, [other for _, other in channels], student.num_classes)
        width = self.decoder.width
        # per layer one projection, or a list of one per level
        self.values = nn.ModuleList(
            nn.Linear(channels[0][0], width)
            if len(set(channels)) == 1
            else nn.ModuleList(nn.Linear(own, width) for own, _ in channels)
            for _ in range(config.layers)
        )
        self.student_rests = False

    def at(self, step: int, total: int) -> None:
        """Disable the imitation term during the first steps of this loss."""
        delay = self.config.delay_steps
        if delay is None:
            delay = min(USUAL_DELAY_STEPS, total // 4)
        self.student_rests = step < math.ceil(self.config.start * total) + delay

    def phase(self) -> object:
        """Return whether the imitation term is left out at this step."""
        return self.student_rests

    def separate(self) -> SeparateTraining:
        """Return the decoder; the student's value projection learns with the student."""
        config = self.config
        return SeparateTraining(
            self.decoder,
            config.auxiliary_lr,
            config.auxiliary_weight_decay,
            config.auxiliary_clip,
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `instance`, `auxiliary_confidence` and `auxiliary_box`."""
        maps = self.levels.select(student.features, teacher.features)
        own, other = (
            [level.permute(0, 2, 3, 1).flatten(1, 2) for level in side]
            for side in zip(*maps, strict=True)
        )  # L times (B, S_l, C_l)
        if self.student_rests:
            own = [level.detach() for level in own]
        questions = draw_questions(
            batch, self.config.queries, self.most, self.decoder.prior, self.decoder.statistics
        )
        cells = locate_cells(
            batch.sizes,
            [(level.shape[-2], level.shape[-1]) for _, level in maps],
            (batch.images.shape[-2], batch.images.shape[-1]),
            self.decoder.width,
        )
        predictions, looks = self.decoder(questions, other, cells)
        confidence, box = auxiliary_losses(
            predictions, questions.real, questions.present, questions.offsets
        )
        return weigh(
            {
                "instance": (self.instance_weight, self.imitate(own, looks, questions)),
                "auxiliary_confidence": (self.config.confidence_weight, confidence),
                "auxiliary_box": (self.config.box_weight, box),
            }
        )

    def imitate(
        self, own: Sequence[Tensor], looks: list[Attention], questions: Questions
    ) -> Tensor:
        """Return the student's error weighted by the decoder's attention, averaged over layers.

        Args:
            own: L tensors (B, S_l, C_l), the student's cells.
            looks: attention and values, one per layer.
            questions: queries; only those of real objects are used.
        """
        errors = []
        for project, look in zip(self.values, looks, strict=True):
            with torch.no_grad():
                real = questions.real[:, : questions.most_real]
                weights = instance_weights(look, real, self.config.temperature)
            values = (
                join_levels(own, project)
                if isinstance(project, nn.ModuleList)
                else project(join_levels(own))
            ).unflatten(-1, look.values.shape[-2:])
            errors.append(
                weighted_error(values, look.values.detach(), weights, form=self.config.error)
            )
        return torch.stack(errors).mean()


def weighted_error(student: Tensor, teacher: Tensor, weights: Tensor, *, form: ErrorForm) -> Tensor:
    """Compare values, each normalised over the d channels of its head.

    `squared` is the weighted mean of each picture and head, averaged over both; a picture whose
    weights are 0 adds 0. The other forms are weighted means over the whole batch.

    Args:
        student: (B, S, a, d).
        teacher: (B, S, a, d).
        weights: (B, a, S).
        form: `root` is the root of the mean squared error.
    """
    channels = student.shape[-1:]
    own, other = (functional.layer_norm(side, channels) for side in (student, teacher))
    if form == "absolute":
        error = functional.l1_loss(own, other, reduction="none")
    elif form == "smooth":
        error = functional.smooth_l1_loss(own, other, reduction="none")
    else:
        error = functional.mse_loss(own, other, reduction="none")
    weighted = (error.mean(dim=-1).transpose(1, 2) * weights).sum(dim=-1)  # (B, a)
    if form == "squared":
        means = weighted / weights.sum(dim=-1).clamp(min=1e-6)
        return mean_of_batch(means.mean(), len(means))
    mean = over_batch(weighted.sum(), weights.sum(), least=1e-6)
    if form != "root":
        return mean
    # of all processes' parts; the root's slope at 0 is infinite
    return (sum_over_processes(mean) / process_count()).clamp(min=1e-12).sqrt()
