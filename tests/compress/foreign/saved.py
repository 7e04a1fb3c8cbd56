"""Checkpoints as Ultralytics' trainers write them, made without the package."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

TASKS, CONV, HEAD = (
    "ultralytics.nn.tasks",
    "ultralytics.nn.modules.conv",
    "ultralytics.nn.modules.head",
)
NAMES = {0: "red", 1: "white"}
YAML = {"nc": 2, "scale": "n", "yaml_file": "yolo11n.yaml", "scales": {"n": [0.5, 0.25, 1024]}}


def class_of(name: str, base: type = nn.Module) -> type:
    """A class that pickles under the name `module.Class` while `importable` holds."""
    module, _, own = name.rpartition(".")
    return type(own, (base,), {"__module__": module, "__qualname__": own})


@contextmanager
def importable(*classes: type) -> Iterator[None]:
    """Let pickle find the classes under their names; leave no trace."""
    before = dict(sys.modules)
    try:
        for cls in classes:
            parts = cls.__module__.split(".")
            for end in range(1, len(parts) + 1):
                name = ".".join(parts[:end])
                if not hasattr(sys.modules.get(name), "__made_here__"):
                    sys.modules[name] = ModuleType(name)
                    sys.modules[name].__made_here__ = True  # type: ignore[attr-defined]
            setattr(sys.modules[cls.__module__], cls.__name__, cls)
        yield
    finally:
        for name in sys.modules.keys() - before.keys():
            del sys.modules[name]
        sys.modules.update(before)


def network(task: str = "DetectionModel", *, fused: bool = False) -> tuple[Any, tuple[type, ...]]:
    """A model of two layers with the package's names, and the classes to pickle it."""
    torch.manual_seed(0)
    model_class = class_of(task if "." in task else f"{TASKS}.{task}")
    conv_class, head_class = class_of(f"{CONV}.Conv"), class_of(f"{HEAD}.Detect")
    model, conv, head = model_class(), conv_class(), head_class()
    conv.conv = nn.Conv2d(3, 4, 3, bias=fused)
    if not fused:
        conv.bn = nn.BatchNorm2d(4)
    head.cv2 = nn.ModuleList([nn.Conv2d(4, 8, 1)])
    head.register_buffer("cached", torch.ones(5), persistent=False)
    model.model = nn.Sequential(conv, head)
    model.yaml, model.names, model.task = dict(YAML), dict(NAMES), "detect"
    return model, (model_class, conv_class, head_class)


def save(path: Path, content: Any, classes: tuple[type, ...], *, legacy: bool = False) -> Path:
    """Write what `torch.save` would write where the classes are installed."""
    with importable(*classes), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old form keeps the source of classes, if it has any
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def checkpoint(model: Any, **entries: Any) -> dict[str, Any]:
    """What a trainer saves around a model."""
    return {
        "epoch": 3,
        "model": None,
        "ema": model,
        "optimizer": {"state": {0: {"step": torch.ones(())}}, "param_groups": [{"lr": 0.1}]},
        "train_args": {"task": "detect", "imgsz": 640, "data": Path("data.yaml")},
        "version": "8.4.190",
        "date": "2026-11-01T10:00:00+00:00",
        **entries,
    }


# environment of a process that uses the package: no network, no prints, no installation by pip
PACKAGE_SWITCHES = {
    "YOLO_OFFLINE": "true",
    "YOLO_VERBOSE": "false",
    "YOLO_AUTOINSTALL": "false",
    "OMP_NUM_THREADS": "1",
}
