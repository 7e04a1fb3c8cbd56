"""`model.safetensors`: a trained detector's weights and the metadata to rebuild it."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from compress.detector import Detector
from compress.detectors import DetectorConfig
from compress.foreign.ultralytics_checkpoint import PICKLED, read_checkpoint
from compress.parts.licence import made_with
from compress.parts.weights import (
    METADATA_KEY,
    check_weights,
    count_parameters,
    load_weights,
    read_metadata,
    read_tensors,
    save_weights,
)
from compress.recipe import ExportConfig, Recipe
from compress.stages.model_name import ModelName
from export.artifact.manifest import InputSpec, Manifest, NmsSpec, read_manifest
from export.artifact.preprocessing import Preprocessing
from export.config import Section
from export.errors import DataError, ExportError, RecipeError
from export.reading.mistakes import all_described

SCHEMA = 1
PACKAGE_NMS_IOU, PACKAGE_BOXES = 0.7, 300  # with which Ultralytics' package predicts
_DETECTOR: TypeAdapter[DetectorConfig] = TypeAdapter(DetectorConfig)
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class ModelMetadata(Section):
    """Metadata of a trained detector, stored as JSON in its file.

    It contains no times and no machine, so that equal runs write equal files.

    Attributes:
        detector: the settings that it was built from; the files named by `weights` and
            `backbone_weights`, from which its training began, are in `recipe` only.
        manifest: its input, classes, thresholds and NMS, as an engine in torch takes them.
        recipe: every setting of the run that trained it, defaults included.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    detector: DetectorConfig
    manifest: Manifest
    recipe: dict[str, JsonValue]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in the order of the labels."""
        return self.manifest.classes

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.manifest.input.height, self.manifest.input.width

    def export_settings(self, path: Path) -> ExportConfig:
        """Return the export section of the recipe behind the model in `path`.

        Raises:
            ExportError: this version cannot read it.
        """
        try:
            return ExportConfig.model_validate_json(json.dumps(self.recipe.get("export", {})))
        except ValidationError as error:
            raise ExportError(
                f"{path}: the export settings in it are not those of this version ("
                f"{all_described(error)}); use the version that wrote it"
            ) from None

    def build(self) -> Detector:
        """Build the detector with random weights; the global random state is left as it was.

        Raises:
            RecipeError: the settings contradict the input size.
            MissingDependencyError: a package that its backbone comes from is not installed.
        """
        with torch.random.fork_rng(devices=[]):
            detector = self.detector.build(len(self.classes), self.input_size)
        detector.spec = replace(detector.spec, classes=self.classes)
        return detector


@dataclass(frozen=True)
class LoadedDetector:
    """A detector rebuilt from its weights file, without its run folder.

    Attributes:
        detector: the network, on the CPU and in eval mode.
        metadata: its settings, classes, input size and thresholds, and the recipe behind it.
    """

    detector: Detector
    metadata: ModelMetadata


def describe_model(
    detector: DetectorConfig, manifest: Manifest, recipe: dict[str, JsonValue]
) -> ModelMetadata:
    """Describe a detector that was built from the settings `detector` and then trained."""
    return ModelMetadata(detector=detector.without_files(), manifest=manifest, recipe=recipe)


def save_model(state: dict[str, torch.Tensor], metadata: ModelMetadata, path: Path) -> None:
    """Write a detector's tensors and metadata as safetensors, atomically.

    Raises:
        ToolkitError: the disk is full.
    """
    save_weights(state, path, json.dumps(metadata.model_dump(mode="json", by_alias=True)))


def read_model_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of a trained detector's file, without its tensors.

    A file from before metadata is described by the records of its run folder, if it is in one; a
    .pt of Ultralytics' trainers by what is pickled in it.

    Raises:
        ExportError: the file is missing, not safetensors, damaged, without metadata, or of another
            schema.
        MissingDependencyError: safetensors is not installed.
    """
    if path.suffix in PICKLED:
        return _of_checkpoint(path)
    text = read_metadata(path)
    if text is None:
        found_in_run = _of_run_folder(path)
        if found_in_run is not None:
            return found_in_run
        raise ExportError(
            f"{path}: holds tensors without a description of the model (no {METADATA_KEY!r} in its "
            "metadata): it was written by another program or by a version before descriptions. "
            "Put it back into its run folder (runs/NAME/models/MODEL/model.safetensors), or give "
            "it as teacher.detector.weights of a recipe with the detector's settings"
        )
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExportError(
            f"{path}: the description of the model is damaged ({error}); copy the file again from "
            "its run folder"
        ) from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise ExportError(
            f"{path}: the description of the model has schema {schema!r}, and this version reads "
            f"schema {SCHEMA}; use the version that wrote it"
        )
    try:
        return ModelMetadata.model_validate_json(text)
    except ValidationError as error:
        raise ExportError(
            f"{path}: the description of the model is not one that this version reads: "
            f"{all_described(error)}; use the version that wrote it, or copy the file again from "
            "its run folder"
        ) from None


def _of_checkpoint(path: Path) -> ModelMetadata:
    """Describe a detector that Ultralytics' trainers saved.

    The input is the square of its training, NMS and the most boxes are the package's own.

    Raises:
        ExportError: it is none, or of a network that is not known here.
    """
    try:
        saved = read_checkpoint(path, shapes=True) if path.is_file() else None
    except (RecipeError, DataError) as error:
        raise ExportError(str(error)) from None
    if saved is None:
        what = "is not a checkpoint of Ultralytics' trainers" if path.exists() else "no such file"
        raise ExportError(
            f"{path}: {what}; expected one, or a model.safetensors of a run. A state_dict does not "
            "state its model: give it as weights of a recipe with the detector's settings"
        )
    if not saved.model:
        raise ExportError(
            f"{path}: was built from {saved.description!r}, a network that is not known here; "
            "expected one of YOLOv8, YOLO11, YOLO26 or RT-DETR"
        )
    side = input_side(saved.train_args.get("imgsz"))
    settings = {"type": saved.family, "model": saved.model}
    detector: DetectorConfig = _DETECTOR.validate_python(settings)
    with torch.device("meta"):
        model = detector.build(len(saved.classes), (side, side))
    nms_free = model.spec.nms_free
    manifest = Manifest(
        model=path.stem,
        family=detector.type,
        backend="torch",
        precision="fp32",
        parameters=count_parameters(model),
        input=InputSpec(height=side, width=side, dynamic_batch=True, preprocessing=Preprocessing()),
        classes=saved.classes,
        category_ids=tuple(range(1, len(saved.classes) + 1)),
        nms=NmsSpec(
            mode="none" if nms_free else "host",
            iou=1.0 if nms_free else PACKAGE_NMS_IOU,
            max_detections=PACKAGE_BOXES,
        ),
        made_by=made_with([model.spec.licence]),
    )
    export: dict[str, JsonValue] = {"nms_iou": PACKAGE_NMS_IOU, "max_detections": PACKAGE_BOXES}
    return describe_model(detector, manifest, {"export": export})


def input_side(trained: object) -> int:
    """Return the side of a square input for the `imgsz` that a training states, or 640."""
    sides = trained if isinstance(trained, list | tuple) else [trained]
    known = [side for side in sides if isinstance(side, int) and 32 <= side <= 4096]
    return 32 * math.ceil(max(known, default=640) / 32)


def _of_run_folder(path: Path) -> ModelMetadata | None:
    """Describe a model by the records of the run folder that contains it.

    Classes are those of its exported file, else of the data's summary, where ids count from 1.

    Returns:
        None if the file is in no run folder, or the run's records are incomplete.
    """
    folder = path.resolve().parent
    home = folder.parent.parent
    try:
        name = ModelName.parse(folder.name)
        recipe = Recipe.model_validate_json((home / "recipe.lock.json").read_bytes())
        detector = recipe.student
        if name.role == "teacher":
            detector = recipe.teachers[(name.stage or 1) - 1].detector
        exported = name if name.role == "teacher" else ModelName(name.seed, name.role)
        sidecar = home / "export" / f"{exported}-fp32" / "model.json"
        if sidecar.is_file():
            known = read_manifest(sidecar)
            classes, ids = known.classes, known.category_ids
        else:
            classes = _classes_of_run(home, recipe, name)
            ids = tuple(range(1, len(classes) + 1))
    except (OSError, ValueError, KeyError, IndexError, TypeError, ExportError):
        return None  # a ValidationError is a ValueError
    height, width = recipe.data.input_size
    tensors = read_tensors(path, "detector")
    parameters = sum(t.numel() for key, t in tensors.items() if not key.endswith(_BUFFERS))
    export = recipe.export
    manifest = Manifest(
        model=str(name),
        family=detector.type,
        backend="torch",
        precision="fp32",
        parameters=parameters,
        input=InputSpec(height=height, width=width, dynamic_batch=True),
        classes=classes,
        category_ids=ids,
        nms=NmsSpec(iou=export.nms_iou, max_detections=export.max_detections),
        score_threshold=export.score_threshold,
        evaluation_score_threshold=export.evaluation_score_threshold,
    )
    return describe_model(detector, manifest, recipe.resolved())


def _classes_of_run(home: Path, recipe: Recipe, name: ModelName) -> tuple[str, ...]:
    """Return the classes of a model that has not been exported.

    Raises:
        ValueError: the teacher was trained on data of its own, of which the run holds no summary.
    """
    if name.role == "teacher":
        teacher = recipe.teachers[(name.stage or 1) - 1]
        if teacher.classes is not None:
            return teacher.classes
        if teacher.data is not None:
            raise ValueError("classes unknown")
    summary = json.loads((home / "data.json").read_bytes())
    return tuple(summary["splits"]["train"]["boxes_per_class"])


def load_detector(path: Path) -> LoadedDetector:
    """Rebuild a detector from its file: settings from its metadata, then its weights.

    Names and shapes are compared before anything is allocated: the settings of a damaged file may
    be those of a model that does not fit the machine.

    Raises:
        ExportError: as `read_model_metadata`, or the tensors do not fit the settings.
        MissingDependencyError: a package that the detector needs is not installed.
    """
    metadata = read_model_metadata(path)
    try:
        with torch.device("meta"):
            planned = metadata.build()
        check_weights(planned, path, strict=True, what="detector")
        detector = metadata.build()
        load_weights(detector, path, strict=True, what="detector")
    except RecipeError as error:
        raise ExportError(
            f"{path}: the tensors and the description of the model in it contradict each other; "
            f"copy the file again from its run folder ({error})"
        ) from None
    return LoadedDetector(detector.eval(), metadata)
