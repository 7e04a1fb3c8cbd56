"""`model.safetensors`: a trained detector's weights, with all that is needed to rebuild it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import ConfigDict, Field, JsonValue, ValidationError

from compress.detector import Detector
from compress.detectors import DetectorConfig
from compress.parts.weights import METADATA_KEY, load_weights, read_metadata, save_weights
from compress.recipe import ExportConfig
from export.artifact.manifest import Manifest
from export.config import Section
from export.errors import ExportError, RecipeError

SCHEMA = 1


class ModelMetadata(Section):
    """What the file of a trained detector says about it, as JSON beside the tensors.

    It holds no times and no machine, so that equal runs write equal files.

    Attributes:
        detector: the settings that it was built from; the files named by `weights` and
            `backbone_weights`, from which its training began, are in `recipe` alone.
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
            ExportError: this version does not read it.
        """
        try:
            return ExportConfig.model_validate_json(json.dumps(self.recipe.get("export", {})))
        except ValidationError as error:
            raise ExportError(
                f"{path}: the export settings in it are not those of this version ("
                f"{error.errors()[0]['msg']}); use the version that wrote it"
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
    """A detector rebuilt from its file alone.

    Attributes:
        detector: on the CPU, in eval mode.
        metadata: its settings, classes, input size and thresholds, and the recipe behind it.
    """

    detector: Detector
    metadata: ModelMetadata


def describe_model(
    detector: DetectorConfig, manifest: Manifest, recipe: dict[str, JsonValue]
) -> ModelMetadata:
    """Describe a detector that was built from the settings `detector` and then trained."""
    settings = detector.model_copy(update={"weights": None, "backbone_weights": None})
    return ModelMetadata(detector=settings, manifest=manifest, recipe=recipe)


def save_model(state: dict[str, torch.Tensor], metadata: ModelMetadata, path: Path) -> None:
    """Write a detector's tensors and metadata as safetensors, whole or not at all.

    Raises:
        ToolkitError: the disk is full.
    """
    save_weights(state, path, json.dumps(metadata.model_dump(mode="json", by_alias=True)))


def read_model_metadata(path: Path) -> ModelMetadata:
    """Read what the file of a trained detector says about it; no tensor is read.

    Raises:
        ExportError: the file is missing, not safetensors, damaged, without metadata, or of another
            schema.
        MissingDependencyError: safetensors is not installed.
    """
    text = read_metadata(path)
    if text is None:
        raise ExportError(
            f"{path}: holds tensors without a description of the model (no {METADATA_KEY!r} in its "
            "metadata): it was written by another program or by a version before descriptions. "
            "Name the run folder instead, or train or load it with a recipe that gives the file as "
            "teacher.detector.weights"
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
        first = error.errors()[0]
        raise ExportError(
            f"{path}: the description of the model is not one that this version reads: "
            f"{'.'.join(map(str, first['loc'])) or 'metadata'}: {first['msg']}; use the version "
            "that wrote it, or copy the file again from its run folder"
        ) from None


def load_detector(path: Path) -> LoadedDetector:
    """Rebuild a detector from `path` alone: settings from its metadata, then its weights.

    Raises:
        ExportError: as `read_model_metadata`, or the tensors do not fit the settings.
        MissingDependencyError: a package that the detector needs is not installed.
    """
    metadata = read_model_metadata(path)
    try:
        detector = metadata.build()
        load_weights(detector, path, strict=True, what="detector")
    except RecipeError as error:
        raise ExportError(
            f"{path}: the tensors and the description of the model in it contradict each other; "
            f"copy the file again from its run folder ({error})"
        ) from None
    return LoadedDetector(detector.eval(), metadata)
