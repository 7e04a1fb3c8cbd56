"""IKD: any base method with adversarially shifted and noisy pictures (instance-conditional "IKD").

A wrapper, as in the authors' released code: (a) pictures perturbed to raise the teacher's loss by
iterative FGSM with diverse inputs (Kurakin et al. 2017, Xie et al. 2019), on which the student's
pyramid imitates the teacher's; (b) Gaussian noise on pictures whose objects are all small, for both
models and every loss. Departs from the code in three places: perturbed pictures are computed in
every step (or every `every` steps) from the augmented batch, where the code computes them once from
the files, so each such step costs `iterations` more forward and backward passes of the teacher;
"small" is measured in letterboxed pixels; and there is no crop here: the authors' crop of 0.8 is
`data.augment.scale: [1.0, 1.25]`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional
from typing_extensions import Self

from compress.batch import Batch, Targets, boxes_per_image
from compress.detector import DetectorSpec, Knowledge, Outputs, Rois
from compress.losses.parts.alignment import align_channels
from compress.losses.parts.levels import check_classes, pair_levels
from compress.losses.parts.loss import DistillationLoss, LossSection, RoiSource, TaskLosses
from compress.losses.parts.masks import stack_boxes
from compress.parts.draws import picture_generators
from compress.parts.processes import over_batch
from compress.training.objective import SeparateTraining
from export.config import ClashError, NonNegativeFloat, PositiveInt, PositiveShare, Share

if TYPE_CHECKING:
    from compress.losses import PlainLossConfig
    from compress.losses.parts.classifier import Classifier, ClassifierConfig

FILL = 114 / 255  # of the letterbox
SHARED = ("ratio", "window", "start", "end", "warmup", "decay")  # of the wrapper, not the base


class IkdConfig(LossSection):
    """The base method, and the perturbation and noise of its images."""

    own_images: ClassVar[bool] = True

    type: Literal["ikd"]
    base: "PlainLossConfig"  # any other method; its terms keep their names
    # share of the run with perturbed or noisy pictures; the base method continues without them,
    # as in the authors' last 8 of 24 epochs
    changed_until: float = Field(default=16 / 24, ge=0, le=1)
    adversarial_weight: NonNegativeFloat = 1e-5  # alpha_adv; 0: no shifted pictures
    every: PositiveInt = 1  # steps between perturbations
    iterations: int = Field(default=5, ge=1, le=1000)  # of FGSM
    epsilon: PositiveShare = 8 / 255  # largest change of a pixel; pixels are in 0..1
    step_size: PositiveShare = 2 / 255  # per iteration
    diversity: float = Field(default=0.5, ge=0, le=1)  # probability of a smaller, shifted input
    diversity_scale: float = Field(default=0.9, gt=0, le=1)  # its smallest side, of the input's
    noise_probability: float = Field(default=0.3, ge=0, le=1)  # per picture of small objects
    noise_std: Share = 0.08  # severity 1
    noise_area_px2: NonNegativeFloat = 1024.0  # an object below is small; letterboxed pixels

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        fields = type(self.base).model_fields
        given = [name for name in SHARED if getattr(self.base, name) != fields[name].default]
        given += ["weight: auto"] if self.base.weight == "auto" else []
        if given:
            raise ClashError(
                f"base shares the schedule of the whole: give {', '.join(given)} beside it, not "
                "inside",
                *(("base", one.removesuffix(": auto")) for one in given),
            )
        return self

    def proposals_from(self) -> RoiSource:
        """Return whose proposals the base method compares."""
        return self.base.proposals_from()

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return what the base method needs of both detectors."""
        return self.base.needs(student, teacher) | {"features"}

    def teacher_needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        """Return what the base method needs of the teacher."""
        return self.base.teacher_needs(student, teacher)

    def wanted_classifier(self) -> "ClassifierConfig | None":
        """Return the base method's classifier settings."""
        return self.base.wanted_classifier()

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        """Return the problems of these settings with this pair of detectors."""
        problems = [f"base: {text}" for text in self.base.check(student, teacher)]
        if self.adversarial_weight:
            if "task" not in teacher.provides:
                problems.append(
                    "adversarial pictures need the teacher's task loss, and "
                    f"{teacher.family!r} does not provide it; set adversarial_weight: 0"
                )
            problems += [
                f"adversarial pictures: {text}; or set adversarial_weight: 0"
                for text in check_classes(student, teacher)
            ]
        return problems

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Ikd":
        """Return the loss for this pair."""
        return Ikd(self, student, teacher)


class Ikd(DistillationLoss[IkdConfig]):
    """The base method's terms, and `adversarial`: the pyramids' distance on shifted pictures."""

    def __init__(self, config: IkdConfig, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__(config, student, teacher)
        self.base: DistillationLoss = config.base.build(student, teacher)
        self.unweighted = self.base.unweighted
        self.levels = pair_levels(student, teacher)
        channels = self.levels.channels(student.channels, teacher.channels)
        self.adapters = align_channels(channels if config.adversarial_weight else [])
        self.step, self.changes = 0, True

    def at(self, step: int, total: int) -> None:
        """Receive the current step and pass it to the base method."""
        self.step, self.changes = step, step < self.config.changed_until * total
        self.base.at(step, total)

    def phase(self) -> object:
        """Return whether pictures are disturbed and a view is due, and the base method's phase."""
        return self.changes, self._due(), self.base.phase()

    def separate(self) -> SeparateTraining | None:
        """Return the base method's separately trained part."""
        return self.base.separate()

    def use_classifier(self, classifier: "Classifier") -> None:
        """Pass it to the base method."""
        self.base.use_classifier(classifier)

    def compared(self, rois: Rois) -> Tensor | None:
        """Return which proposals the base method compares."""
        return self.base.compared(rois)

    def disturb(self, batch: Batch) -> Batch:
        """Return the batch with noise on some pictures whose objects are all small.

        A labelled picture without objects counts as one; an unlabelled one never does.
        """
        config = self.config
        batch = self.base.disturb(batch)
        if not self.changes:
            return batch
        boxes, picture = stack_boxes(boxes_per_image(batch.targets))
        sides = boxes[:, 2:] - boxes[:, :2]
        large = sides.prod(dim=1) >= config.noise_area_px2
        count = torch.zeros(len(batch.images), device=boxes.device)
        small = count.index_add(0, picture, large.to(count)) == 0
        small &= torch.arange(len(small), device=boxes.device) < batch.labeled
        generators = picture_generators(batch.image_ids, "ikd")
        chances = torch.stack([torch.rand((), generator=source) for source in generators])
        chosen = small.cpu() & (chances < config.noise_probability)
        if not bool(chosen.any()):
            return batch
        images = batch.images.clone()
        for index in chosen.nonzero()[:, 0].tolist():
            noise = torch.randn(images.shape[1:], generator=generators[index]).to(images)
            images[index] = (images[index] + config.noise_std * noise).clamp(0, 1)
        return with_images(batch, images, batch.targets)

    def view(self, batch: Batch, task_losses: TaskLosses) -> Batch | None:
        """Return the labelled pictures, perturbed to raise the teacher's loss."""
        if not self._due() or not batch.labeled:
            return None
        labeled = Batch(
            batch.images[: batch.labeled],
            batch.targets[: batch.labeled],
            batch.sizes[: batch.labeled],
            batch.image_ids[: batch.labeled],
            batch.labeled,
        )
        return with_images(
            labeled, shifted_pictures(labeled, task_losses, self.config), labeled.targets
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the base method's terms."""
        terms = {
            name: term if name in self.unweighted else self.base.weight * term
            for name, term in self.base.terms(student, teacher, batch).items()
        }
        resting = [p.sum() for p in self.adapters.parameters()]
        if resting and not self._due():  # other processes wait for their gradients too
            first = next(iter(terms))
            terms[first] = terms[first] + 0 * torch.stack(resting).sum()
        return terms

    def view_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return `adversarial`: squared distances over all levels, over the number of pictures."""
        distances = [
            (adapter(own) - other).square().sum()
            for adapter, (own, other) in zip(
                self.adapters, self.levels.select(student.features, teacher.features), strict=True
            )
        ]
        total = torch.stack(distances).sum()
        error = over_batch(total, len(batch.images))
        return {"adversarial": self.config.adversarial_weight * error}

    def _due(self) -> bool:
        due = self.changes and self.step % self.config.every == 0
        return due and bool(self.config.adversarial_weight)


def shifted_pictures(batch: Batch, task_losses: TaskLosses, config: IkdConfig) -> Tensor:
    """Perturb pictures (B, 3, H, W) to raise the teacher's task loss, by at most epsilon."""
    clean = batch.images
    lowest = (clean - config.epsilon).clamp(min=0)
    highest = (clean + config.epsilon).clamp(max=1)
    moved = clean.clone()
    (shared,) = picture_generators([0], "ikd diversity")  # one draw for the batch of all processes
    for _ in range(config.iterations):
        draw = torch.rand(4, generator=shared).tolist()
        with torch.enable_grad():
            leaf = moved.detach().requires_grad_()
            moving = with_images(batch, leaf, batch.targets)
            losses = task_losses(diverse_input(moving, config, draw))
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        moved = (moved + config.step_size * gradient.sign()).clamp(lowest, highest)
    return moved.detach()


def diverse_input(batch: Batch, config: IkdConfig, draw: Sequence[float]) -> Batch:
    """Return the batch, or with some probability a smaller copy of it at a random place.

    Boxes are moved too. All pictures have the same size and place; the rest is padding.

    Args:
        batch: the pictures.
        config: probability and smallest size.
        draw: four numbers, uniform in 0..1.
    """
    chance, size, down, right = draw
    if chance >= config.diversity:
        return batch
    height, width = batch.images.shape[-2:]
    scale = config.diversity_scale + size * (1 - config.diversity_scale)
    rows, columns = max(1, round(scale * height)), max(1, round(scale * width))
    top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
    smaller = functional.interpolate(
        batch.images, size=(rows, columns), mode="bilinear", align_corners=False
    )
    around = (left, width - columns - left, top, height - rows - top)
    factor = smaller.new_tensor([columns / width, rows / height] * 2)
    offset = smaller.new_tensor([left, top] * 2)
    targets = tuple(Targets(t.boxes * factor + offset, t.labels) for t in batch.targets)
    return with_images(batch, functional.pad(smaller, around, value=FILL), targets)


def with_images(batch: Batch, images: Tensor, targets: tuple[Targets, ...]) -> Batch:
    """Return the batch with other pictures, and boxes that fit them."""
    return batch._replace(images=images, targets=targets)
