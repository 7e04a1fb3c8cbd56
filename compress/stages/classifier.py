"""Train and measure the crop classifier of the `dicod` loss.

It trains on the boxes of the detector's batches, in the same loop, and so resumes the same way.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.data.image_set import ImageSet, read_canvas
from compress.batch import Batch, boxes_per_image
from compress.data.config import Data
from compress.data.loading import steps_per_epoch
from compress.losses.parts.classifier import Classifier, ClassifierConfig
from compress.parts.crops import crop_boxes
from compress.parts.pretrained import load_backbone_weights
from compress.parts.processes import over_batch, process_count
from compress.parts.weights import load_weights
from compress.stages.fit import batches_of, furnish
from compress.stages.opened import Run
from compress.stages.rundir import finished, read_record
from compress.training.job import TrainJob
from compress.training.loop import train
from compress.training.objective import Objective
from export.errors import counted
from export.pictures.images import fit as letterbox_fit
from export.pictures.images import to_tensor

NAME = "classifier"
PICTURES = 8  # per batch when accuracy is measured


class CropClassification(Objective):
    """Objective: cross entropy over the boxes of a batch."""

    student: Classifier

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.student = classifier

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `task/class`; a zero with a gradient path for a batch without boxes."""
        boxes = boxes_per_image(batch.targets[: batch.labeled])
        count = sum(len(own) for own in boxes)
        if not count and process_count() == 1:  # BatchNorm refuses an empty batch
            zero = torch.stack([p.sum() for p in self.student.parameters()]).sum() * 0
            return {"task/class": zero}
        labels = torch.cat([target.labels for target in batch.targets[: batch.labeled]])
        logits = self.student(crop_boxes(batch.images, boxes, self.student.crop))
        error = functional.cross_entropy(logits, labels, reduction="sum")
        return {"task/class": over_batch(error, count)}


def classifier_folder(run: Run, config: ClassifierConfig) -> Path:
    """Train the classifier into `models/classifier`; do nothing if it exists."""
    session, data, seed = run.session, run.data, run.recipe.seed
    folder = run.home / "models" / NAME
    if finished(folder):
        session.console.print(f"{NAME}: already trained, kept")
        return folder
    torch.manual_seed(seed)
    classifier = config.build(data.num_classes)
    if config.backbone_weights is not None:
        report = load_backbone_weights(classifier, config.backbone, config.backbone_weights)
        session.console.print(f"{NAME}: backbone weights from {report.source}: {report.summary()}")
    schedule = config.schedule()
    total = schedule.total_steps(steps_per_epoch(data, schedule.batch))
    session.console.print(
        f"{NAME}: {counted(total, 'step')} on the boxes of {schedule.batch} of "
        f"{counted(len(data.train), 'picture')}"
    )

    def evaluate(model: nn.Module) -> dict[str, float | None]:
        assert isinstance(model, Classifier)
        return {"accuracy": accuracy(model, data)}

    trained = train(
        TrainJob(
            name=NAME,
            objective=CropClassification(classifier),
            batches=batches_of(session, data, schedule, seed, total),
            config=schedule,
            total=total,
            live=session.home / "training" / NAME,
            evaluate=evaluate,
            fabric=session.fabric("32-true"),
            seed=seed,
            console=session.console,
            trackers=session.trackers,
        )
    )
    record = {
        "name": NAME,
        "seed": seed,
        "steps": trained.steps,
        "seconds": trained.seconds,
        "accuracy": trained.rows[-1]["accuracy"],
        "rows": trained.rows,
    }

    furnish(session, folder, trained, record, "32-true")
    return folder


def load_classifier(run: Run, config: ClassifierConfig, folder: Path) -> Classifier:
    """Load the finished classifier onto the device, frozen, and print its accuracy."""
    classifier = config.build(run.data.num_classes)
    load_weights(classifier, folder / "model.safetensors", strict=True, what=NAME)
    run.print(f"{NAME}: {describe_accuracy(read_record(folder).accuracy)}")
    return classifier.to(run.session.torch_device()).eval().requires_grad_(False)


def describe_accuracy(value: float | None) -> str:
    """Return the accuracy as text."""
    found = "accuracy n/a" if value is None else f"{100 * value:.1f} % of crops correct"
    return f"{found} on the objects of the validation pictures"


@torch.inference_mode()
def accuracy(classifier: Classifier, data: Data) -> float | None:
    """Return the share of validation boxes, without crowds, whose class is predicted correctly."""
    device = next(classifier.parameters()).device
    classifier.eval()
    right = seen = 0
    for start in range(0, len(data.val), PICTURES):
        indices = range(start, min(start + PICTURES, len(data.val)))
        canvases = [
            read_canvas(data.val, index, data.input_height, data.input_width)[0]
            for index in indices
        ]
        images = torch.from_numpy(to_tensor(canvases)).to(device)
        found = [_objects(data.val, index, data) for index in indices]
        labels = torch.cat([own for _, own in found]).to(device)
        if len(labels):
            boxes = [own.to(device) for own, _ in found]
            chosen = classifier(crop_boxes(images, boxes, classifier.crop)).argmax(dim=1)
            right += int((chosen == labels).sum())
            seen += len(labels)
    return right / seen if seen else None


def _objects(images: ImageSet, index: int, data: Data) -> tuple[Tensor, Tensor]:
    """Return the boxes (n, 4) in input pixels and labels (n,) of one picture."""
    image = images.images[index]
    place = letterbox_fit(image.width, image.height, data.input_height, data.input_width)
    boxes = torch.from_numpy(place.to_input(image.boxes[~image.crowd])).float()
    return boxes, torch.from_numpy(image.labels[~image.crowd])
