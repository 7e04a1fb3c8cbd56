"""Load the weights that a training starts from: a local file, or ImageNet weights to fetch."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torchvision import models

from compress.console import Console
from compress.parts.backbones import Backbone, SlimResNetConfig
from compress.parts.weights import (
    WeightsReport,
    check_fill,
    check_weights,
    fill,
    load_weights,
    read_tensors,
)
from export.errors import MissingDependencyError, RecipeError, ToolkitError
from export.optional import require

FETCHED = frozenset({"torchvision", "timm"})  # sources of backbone weights that are no files
PREFIXES = ("", "features.", "backbone.body.", "backbone.", "model.", "encoder.")


class StartingWeights(Protocol):
    """Settings of a detector that name the weights it starts from."""

    @property
    def type(self) -> str:
        """The detector's family."""

    @property
    def weights(self) -> Path | None:
        """A local file of the whole detector; None: random weights."""

    def backbone_source(self) -> tuple[str | SlimResNetConfig, str] | None:
        """Return the backbone and the source of its weights; None: random weights."""


def load_starting_weights(
    console: Console, config: StartingWeights, detector: nn.Module, *, strict: bool = True
) -> list[WeightsReport]:
    """Load what a detector's settings name: the backbone's weights, then the whole detector's.

    Without `strict` a file that holds only a part of the detector is loaded with a warning.
    """
    reports = []
    of_backbone = config.backbone_source()
    if of_backbone is not None:
        report = load_backbone_weights(detector, *of_backbone)
        console.print(f"backbone weights from {report.source}: {report.summary()}")
    if config.weights is not None:
        what = f"{config.type} weights"
        report = load_weights(detector, config.weights, strict=strict, what=what)
        write = console.print if report.complete else console.warn
        write(f"weights from {report.source}: {report.summary()}")
        reports.append(report)
    return reports


def check_starting_weights(
    config: StartingWeights, detector: nn.Module, *, strict: bool = True
) -> Iterator[tuple[str, ToolkitError]]:
    """Yield what is wrong with the files that a detector's settings name, by key; reads headers."""
    _, source = config.backbone_source() or (None, None)
    if source is not None and source not in FETCHED and isinstance(detector.backbone, Backbone):
        try:
            found = read_tensors(Path(source), "backbone_weights", shapes=True)
            body = detector.backbone.body
            check_fill(body, found, source, rename=_names(body, found))
        except ToolkitError as error:
            yield "backbone_weights", error
    if config.weights is not None:
        try:
            check_weights(detector, config.weights, strict=strict, what=f"{config.type} weights")
        except ToolkitError as error:
            yield "weights", error


def load_backbone_weights(
    detector: nn.Module, backbone: str | SlimResNetConfig, source: str
) -> WeightsReport:
    """Load the detector's backbone; other tensors of the source, such as a classifier, are ignored.

    Args:
        detector: a module with a `backbone`.
        backbone: its name in the recipe.
        source: a local file, or "torchvision" or "timm" to fetch its ImageNet weights.

    Raises:
        RecipeError: the source does not fill the whole backbone.
        MissingDependencyError: weights are to be fetched and cannot be.
        DataError: the file is damaged.
    """
    module = detector.backbone
    if not isinstance(module, Backbone):
        raise RecipeError("backbone_weights: this detector has no backbone to fill")
    if source == "torchvision" and isinstance(backbone, str):
        found = _fetch_torchvision(backbone)
    elif source == "timm" and isinstance(backbone, str):
        found = _fetch_timm(backbone.removeprefix("timm/"), module)
    else:
        found = read_tensors(Path(source), "backbone_weights")
    return fill(module.body, found, source, rename=_names(module.body, found))


def _names(body: nn.Module, found: Mapping[str, Tensor]) -> dict[str, str]:
    """Find each tensor of the body in a source that may name it with a prefix."""
    names = {}
    for name in body.state_dict():
        # timm joins the name of a list and the index when it cuts a model at its stages
        dotted = re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name)
        # and puts one that gives maps without being cut inside another module
        forms = (name, dotted, name.removeprefix("model."))
        options = [prefix + form for prefix in PREFIXES for form in forms]
        names[name] = next((option for option in options if option in found), name)
    return names


def _fetch_torchvision(name: str) -> Mapping[str, Tensor]:
    # the first set: the schedules of the detection papers start from it
    weights = models.get_model_weights(name)["IMAGENET1K_V1"]
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        file = weights.url.rsplit("/", 1)[-1]
        raise MissingDependencyError(
            f"backbone_weights: torchvision's weights of {name} could not be fetched ({error}). "
            f"Download {weights.url} where there is a network and put it at {folder / file}, or "
            "set backbone_weights to the path of a local file, or leave it out to start from "
            "random weights"
        ) from error
    return state


def _fetch_timm(name: str, module: Backbone) -> Mapping[str, Tensor]:
    timm = require("timm", extra="timm", purpose=f"backbone timm/{name}")
    info: Any = getattr(module.body, "feature_info", None)
    # a ViT that gives its last map is not cut
    cut = {} if info is None else {"features_only": True, "out_indices": tuple(info.out_indices)}
    try:
        state: Mapping[str, Tensor] = timm.create_model(name, pretrained=True, **cut).state_dict()
    except Exception as error:  # each of timm's sources has its own kinds
        raise MissingDependencyError(
            f"backbone_weights: timm's weights of {name} could not be fetched "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'none'}). "
            f"Save timm.create_model('{name}', pretrained=True).state_dict() as a .pth file where "
            "there is a network, and set backbone_weights to that file"
        ) from error
    return state
