"""Networks, losses and assigners of the package `ultralytics`; the only file that imports it.

The package is AGPL-3.0 and an extra of its own; it is imported when a recipe first builds one of
its models. Its import has effects on the whole process and on the disk, which are undone here:
files, sockets, prints, environment, warning filters, print options, `torch.save`, OpenCV's threads.
What remains: the modules that it loads, OpenCV among them, and its own logger, which writes to no
stream of its own. Building a model takes numbers from torch's global generator, as all models do.

What is used of it is private: its layers, its task-aligned assigner and its losses. Every name is
looked up when it is loaded, so that a version that moved one is refused with that name.
"""

import contextlib
import copy
import importlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from compress.detectors.ultralytics_parts.installed import Installed, find_installed, wanted
from export.errors import MissingDependencyError

BN_EPS = 1e-3  # which its trained weights were made with

SIZES = ("n", "s", "m", "l", "x")
YOLO_MODELS = tuple(f"{name}{size}" for name in ("yolov8", "yolo11", "yolo26") for size in SIZES)
RTDETR_MODELS = ("rtdetr-l", "rtdetr-x")

# No network, no prints, no installation by pip, no settings in the home folder.
_SWITCHES = {
    "YOLO_OFFLINE": "true",
    "YOLO_VERBOSE": "false",
    "YOLO_AUTOINSTALL": "false",
    "ULTRALYTICS_SAFE_LOAD": "1",
}


@dataclass(frozen=True)
class Package:
    """What is used of the installed package.

    Attributes:
        version: its version.
        folder: where it is installed.
        licence: package, version and licence.
        parse_model: settings of a network to its layers.
        yolo: class of a whole YOLO.
        rtdetr: class of a whole RT-DETR.
        assigner: class of the task-aligned assigner.
        box_loss: class of the losses of boxes.
        query_loss: class of RT-DETR's losses.
        detect: class of YOLO's head.
        gains: weights of the losses of YOLO.
    """

    version: str
    folder: Path
    licence: str
    parse_model: Any
    yolo: Any
    rtdetr: Any
    assigner: Any
    box_loss: Any
    query_loss: Any
    detect: Any
    gains: Mapping[str, float]


@dataclass(frozen=True)
class Network:
    """The layers of a network, without weights of any training.

    Attributes:
        layers: all layers, the head last.
        sources: numbers of the layers whose outputs each layer takes; -1 is the image.
        backbone: how many of the layers are the backbone.
        licence: see `Package.licence`.
    """

    layers: list[nn.Module]
    sources: list[tuple[int, ...]]
    backbone: int
    licence: str


@cache
def load_package() -> Package:
    """Import the package, once, and undo what its import changes.

    Raises:
        MissingDependencyError: it is not installed, installed twice, of another version than this
            project was written against, cannot be imported, or has moved a part that is used.
    """
    here = find_installed()
    if "ultralytics" in sys.modules:
        warnings.warn(
            "ultralytics was imported before slimdet built its first model, so that slimdet could "
            "not keep that import from writing its settings file, printing and changing this "
            "process; import it later",
            UserWarning,
            stacklevel=2,
        )
    before = set(sys.modules)
    try:
        with _undone():
            return _parts(here)
    except Exception as error:
        for name in set(sys.modules) - before:  # else the next attempt finds half of it
            if name.partition(".")[0] == "ultralytics":
                del sys.modules[name]
        if isinstance(error, MissingDependencyError):
            raise
        # the import of a foreign package can fail in any way, as by a library that OpenCV lacks
        raise MissingDependencyError(
            f"ultralytics {here.version} in {here.folder} cannot be imported "
            f"({type(error).__name__}: {error}); repair it, or install {wanted()}"
        ) from error


def _parts(here: Installed) -> Package:
    """Look up all that is used."""
    tasks = _part("ultralytics.nn.tasks")
    losses = _part("ultralytics.utils.loss")
    gains = _member(_part("ultralytics.utils"), "DEFAULT_CFG_DICT", here)
    if not {"box", "cls", "dfl"} <= set(gains):
        raise MissingDependencyError(
            f"ultralytics {here.version} has no default of box, cls and dfl in "
            f"ultralytics.utils.DEFAULT_CFG_DICT; install {wanted()}"
        )
    return Package(
        version=here.version,
        folder=here.folder,
        licence=here.licence,
        parse_model=_member(tasks, "parse_model", here),
        yolo=_member(tasks, "DetectionModel", here),
        rtdetr=_member(tasks, "RTDETRDetectionModel", here),
        assigner=_member(_part("ultralytics.utils.tal"), "TaskAlignedAssigner", here),
        box_loss=_member(losses, "BboxLoss", here),
        query_loss=_member(_part("ultralytics.models.utils.loss"), "RTDETRDetectionLoss", here),
        detect=_member(_part("ultralytics.nn.modules.head"), "Detect", here),
        gains={name: float(gains[name]) for name in ("box", "cls", "dfl")},
    )


def build_network(model: str, num_classes: int, momentum: float) -> Network:
    """Build the layers of a model with random weights.

    Args:
        model: its name, such as yolo11n.
        num_classes: K.
        momentum: momentum of BatchNorm's running statistics.

    Raises:
        MissingDependencyError: see `load_package`, or its files lack the model.
    """
    package = load_package()
    settings = _settings_of(package, model)
    settings["nc"] = num_classes
    legacy = package.detect.legacy
    try:
        sequence, _ = package.parse_model(copy.deepcopy(settings), ch=3, verbose=False)
    finally:
        package.detect.legacy = legacy
    layers = list(sequence)
    for module in list(sequence.modules()):
        if type(module) is nn.BatchNorm2d:
            module.eps, module.momentum = BN_EPS, momentum
        if isinstance(getattr(module, "act", None), nn.Module):
            module.act = copy.deepcopy(module.act)  # all models of a process share one
    sources = []
    for number, (origin, *_rest) in enumerate(settings["backbone"] + settings["head"]):
        origins = [origin] if isinstance(origin, int) else origin
        sources.append(tuple(one if one >= 0 else number + one for one in origins))
    return Network(layers, sources, len(settings["backbone"]), package.licence)


def whole_network(model: str, num_classes: int) -> nn.Module:
    """Build the package's own model, such as its checkpoints hold, with random weights.

    Raises:
        MissingDependencyError: see `build_network`.
    """
    package = load_package()
    settings = {**_settings_of(package, model), "nc": num_classes, "yaml_file": f"{model}.yaml"}
    build = package.rtdetr if model in RTDETR_MODELS else package.yolo
    legacy = package.detect.legacy
    try:
        whole: nn.Module = build(settings, ch=3, nc=num_classes, verbose=False)
    finally:
        package.detect.legacy = legacy
    return whole


def _settings_of(package: Package, model: str) -> dict[str, Any]:
    """Return the package's own description of a model.

    Raises:
        MissingDependencyError: it has none.
    """
    import yaml

    stem, size = re.sub(r"([nsmlx])$", "", model), model[-1]
    names = (f"{model}.yaml", f"{stem}.yaml")
    found = [path for name in names for path in sorted(package.folder.glob(f"cfg/models/*/{name}"))]
    if not found:
        raise MissingDependencyError(
            f"ultralytics {package.version} at {package.folder} has no description of {model} "
            f"(cfg/models/*/{names[0]} or {names[1]}); install {wanted()}"
        )
    settings: dict[str, Any] = yaml.safe_load(found[0].read_text(encoding="utf-8"))
    if size not in settings.get("scales", {}):
        raise MissingDependencyError(
            f"{found[0]}: has the sizes {', '.join(settings.get('scales', {}))}, and {model} was "
            f"asked for; install {wanted()}"
        )
    return {**settings, "scale": size}


def _part(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("ultralytics"):
            raise
        raise MissingDependencyError(
            f"the installed ultralytics has no {error.name}; install {wanted()}"
        ) from None


def _member(module: ModuleType, name: str, here: Installed) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        raise MissingDependencyError(
            f"ultralytics {here.version} has no {module.__name__}.{name}; install {wanted()}"
        ) from None


@contextlib.contextmanager
def _undone() -> Iterator[None]:
    """Import inside this context without files, sockets, prints or changes of the process."""
    environment = dict(os.environ)
    save, print_options = torch.save, np.get_printoptions()
    tensors = copy.copy(torch._tensor_str.PRINT_OPTS)
    open_picture = Image.open  # theirs wants a further package for what is no picture
    is_first = "ultralytics" not in sys.modules
    threads = _opencv_threads()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        os.environ.update(_SWITCHES, YOLO_CONFIG_DIR=folder)
        try:
            yield
        finally:
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            for name, value in environment.items():
                if os.environ.get(name) != value:
                    os.environ[name] = value
            torch.save = save
            Image.open = open_picture
            np.set_printoptions(**print_options)
            torch._tensor_str.PRINT_OPTS = tensors
            if "cv2" in sys.modules:
                sys.modules["cv2"].setNumThreads(-1 if threads is None else threads)
            if is_first:
                _silence(logging.getLogger("ultralytics"))


def _opencv_threads() -> int | None:
    """Return OpenCV's number of threads; None while it is not imported, which means its default."""
    loaded = sys.modules.get("cv2")
    return None if loaded is None else int(loaded.getNumThreads())


def _silence(logger: logging.Logger) -> None:
    """Take a logger from standard output, which belongs to results; the root logger has it all."""
    for handler in [*logger.handlers]:
        logger.removeHandler(handler)
    logger.propagate = True
