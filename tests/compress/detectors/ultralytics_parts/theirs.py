"""Models as the package builds them itself, and ours with their weights."""

from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import Tensor

from compress.batch import Batch
from compress.detector import Detector
from compress.detectors.ultralytics_parts.package import load_package
from tests.compress.detectors.small import CLASSES, SIZE, small_batch, small_detector

EPOCHS = 5


def their_model(model: str, classes: int = CLASSES, *, meta: bool = False) -> Any:
    """Build the package's own `DetectionModel` or `RTDETRDetectionModel`, in training mode.

    With `meta`, without weights.
    """
    package = load_package()  # first, so that its import changes nothing
    from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

    is_yolo = model.startswith("yolo")
    name = model[:-1] if is_yolo else model
    (file,) = package.folder.glob(f"cfg/models/*/{name}.yaml")
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    settings |= {"scale": model[-1], "nc": classes}
    kind = DetectionModel if is_yolo else RTDETRDetectionModel
    torch.manual_seed(0)
    with torch.device("meta" if meta else "cpu"):
        built: Any = kind(settings, ch=3, nc=classes, verbose=False)
    # as its trainer sets them
    built.nc, built.args = classes, SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=EPOCHS)
    built.end2end = model.startswith("yolo26")
    return built


def our_model(model: str, size: tuple[int, int] = SIZE, classes: int = CLASSES) -> Detector:
    """Build our detector of the same model."""
    family = "yolo" if model.startswith("yolo") else "rtdetr"
    return small_detector(family, size, classes, model=model)


def equal_pair(model: str) -> tuple[Any, Any]:
    """Return their model and ours with equal weights, whose statistics are those of a batch."""
    their, our = their_model(model), our_model(model)
    layers = [one for one in their.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    for one in layers:
        one.momentum = 1.0
    with torch.no_grad():
        their(small_batch((0, 0, 0)).images)
        for layer in their.model[-1].modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.bias is not None:
                layer.weight.mul_(3)  # scores and boxes that differ by place
                layer.bias.sub_(layer.bias.clamp(max=0) + 1)
    assert our.load_state_dict(our.renamed(their.state_dict())).missing_keys == []
    return their, our


def as_theirs(batch: Batch) -> dict[str, Tensor]:
    """Return a batch as the package's losses take it: boxes cxcywh in shares of the input."""
    height, width = batch.images.shape[-2:]
    boxes = torch.cat([target.boxes for target in batch.targets])
    boxes = boxes / torch.tensor([width, height, width, height])
    counts = torch.tensor([len(target.boxes) for target in batch.targets])
    return {
        "img": batch.images,
        "batch_idx": torch.arange(len(counts)).repeat_interleave(counts).float(),
        "cls": torch.cat([target.labels for target in batch.targets]).float()[:, None],
        "bboxes": torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1),
    }
