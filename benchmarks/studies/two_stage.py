"""Faster R-CNN as graphs and in torchvision, for `benchmarks.studies.roi_align`."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from typing_extensions import Self

from benchmarks.data.image_set import ImageSet
from compress.detectors.faster_rcnn import FasterRcnn, FasterRcnnConfig
from compress.detectors.parts.roi_pool import RoiAlignForm
from compress.parts.weights import count_parameters, load_weights
from compress.recipe import Recipe, load_recipe
from compress.stages.model_name import ModelName
from export.artifact.manifest import InputSpec, Manifest, NmsSpec
from export.artifact.preprocessing import Preprocessing
from export.detections import Candidates
from export.errors import RecipeError
from export.graph.to_onnx import export_onnx
from export.pictures.images import Images, to_tensor

EAGER = "eager"
FORMS: tuple[RoiAlignForm, ...] = get_args(RoiAlignForm)
LOW_SCORE = 0.01  # score to select from; differences count from 0.05


@dataclass(frozen=True)
class Trained:
    """A trained Faster R-CNN: its recipe, settings and weights."""

    name: str
    recipe: Recipe
    config: FasterRcnnConfig
    weights: Path

    def build(self, images: ImageSet, proposals: int, form: RoiAlignForm) -> FasterRcnn:
        """Build the detector with this number of proposals and this form of RoIAlign."""
        changes = {"proposals": proposals, "roi_align": form}
        config = self.config.model_copy(update=changes)
        detector = config.build(len(images.classes), self.recipe.data.input_size)
        load_weights(detector, self.weights, strict=True, what=self.name)
        return detector.eval()

    def manifest(self, images: ImageSet, detector: FasterRcnn) -> Manifest:
        """Return the sidecar of the graphs, which take one picture at a time."""
        height, width = self.recipe.data.input_size
        export = self.recipe.export
        return Manifest(
            model=self.name,
            family="faster_rcnn",
            backend="onnxruntime",
            precision="fp32",
            parameters=count_parameters(detector),
            input=InputSpec(height=height, width=width, preprocessing=Preprocessing()),
            classes=images.classes,
            category_ids=images.category_ids,
            nms=NmsSpec(iou=export.nms_iou, max_detections=export.max_detections),
        )

    def export(
        self,
        images: ImageSet,
        proposals: int,
        form: RoiAlignForm,
        canvas: NDArray[np.uint8],
        folder: Path,
    ) -> Path:
        """Write the graph into `folder`, traced with a picture."""
        detector = self.build(images, proposals, form)
        manifest = self.manifest(images, detector)
        return export_onnx(
            detector,
            manifest,
            folder,
            to_tensor([canvas]),
            opset=self.recipe.export.opset,
            translations=detector.onnx_translations,
        )


class Trunk(nn.Module):
    """Our backbone and pyramid in torchvision's form."""

    def __init__(self, detector: FasterRcnn) -> None:
        super().__init__()
        self.backbone, self.neck = detector.backbone, detector.neck

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """Return the levels by name, finest first."""
        maps = self.neck(self.backbone(images))
        return OrderedDict((str(index), level) for index, level in enumerate(maps))


class EagerEngine:
    """Torchvision's GeneralizedRCNN around a detector's trained modules; its boxes need no NMS.

    Attributes:
        kept: number of proposals of each picture so far.
    """

    def __init__(
        self, detector: FasterRcnn, manifest: Manifest, score: float, threads: int | None = None
    ) -> None:
        nms, size = manifest.nms, (manifest.input.height, manifest.input.width)
        self.device = "cpu"
        self.manifest = manifest.model_copy(
            update={"backend": "torch", "nms": nms.model_copy(update={"mode": "none"})}
        )
        roi = detector.head.roi
        roi.score_thresh, roi.nms_thresh, roi.detections_per_img = (
            score,
            nms.iou,
            nms.max_detections,
        )
        # pictures have the input's size already, and the backbone normalises
        prepare = GeneralizedRCNNTransform(
            min(size), max(size), [0.0] * 3, [1.0] * 3, _skip_resize=True
        )
        self.model = GeneralizedRCNN(Trunk(detector), detector.head.rpn, roi, prepare).eval()
        self.kept: list[int] = []
        detector.head.rpn.register_forward_hook(self._count)
        self._threads, self._before = threads, torch.get_num_threads()

    def _count(self, _: nn.Module, __: object, found: tuple[list[Tensor], object]) -> None:
        self.kept.extend(len(boxes) for boxes in found[0])

    def candidates(self, images: Images) -> Candidates:
        """Return detections of (B, 3, H, W) pictures, padded with scores of -1."""
        with torch.inference_mode():
            found = self.model(list(torch.from_numpy(images)))
        shape = (len(found), self.manifest.nms.max_detections)
        boxes = np.zeros((*shape, 4), dtype=np.float32)
        scores, labels = np.full(shape, -1, dtype=np.float32), np.zeros(shape, dtype=np.int32)
        for index, picture in enumerate(found):
            count = len(picture["scores"])
            boxes[index, :count] = picture["boxes"].numpy()
            scores[index, :count] = picture["scores"].numpy()
            labels[index, :count] = picture["labels"].numpy() - 1  # background is its 0
        return Candidates(boxes, scores, labels)

    def __enter__(self) -> Self:
        """Set torch's threads."""
        self._before = torch.get_num_threads()
        torch.set_num_threads(self._threads or self._before)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore torch's number of threads; the modules stay with the caller."""
        torch.set_num_threads(self._before)


def open_trained(path: Path) -> Trained:
    """Find the recipe and the weights of a run, of a folder in its `models/`, or of a file there.

    Raises:
        RecipeError: `path` is not in a run, or its model is not a finished Faster R-CNN.
    """
    home = next((p for p in (path, *path.parents) if (p / "recipe.lock.json").is_file()), None)
    if home is None:
        raise RecipeError(f"{path}: not in a run folder (one that holds recipe.lock.json)")
    recipe, _ = load_recipe(home / "recipe.lock.json")
    folder = path.parent if path.is_file() else path
    if folder == home:
        folder = home / "models" / str(ModelName(recipe.seed, "student"))
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise RecipeError(f"{weights}: not found; name a finished run or a folder of its models/")
    try:
        name = ModelName.parse(folder.name)
    except ValueError as error:
        raise RecipeError(f"{weights}: {error}") from None
    config = recipe.student
    if name.role == "teacher":
        config = recipe.teachers[(name.stage or 1) - 1].detector
    if not isinstance(config, FasterRcnnConfig):
        raise RecipeError(f"{weights}: a {config.type}; only faster_rcnn pools RoIs")
    return Trained(folder.name, recipe, config, weights)
