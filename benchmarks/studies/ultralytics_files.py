"""Files of YOLO networks for both programs, and processes of one thread, for the studies of it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from compress.detectors.yolo import Yolo, YoloConfig
from compress.parts.weights import count_parameters
from compress.stages.model_file import describe_model, save_model
from export.artifact.manifest import InputSpec, Manifest, NmsSpec


def started(*arguments: str) -> str:
    """Run Python in a process of one thread; return what it writes.

    Raises:
        RuntimeError: it failed.
    """
    found = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if found.returncode:
        raise RuntimeError(f"{' '.join(arguments)}:\n{found.stdout[-4000:]}")
    return found.stdout


def export_pt(source: Path, out: Path) -> None:
    """Write weights as a checkpoint of Ultralytics."""
    started("-m", "slimdet", "export-pt", str(source), "--out", str(out))


def random_yolo(model: str, classes: int, size: int, seed: int) -> Yolo:
    """Build a YOLO with the random weights of a seed, for a square input."""
    torch.manual_seed(seed)
    return YoloConfig(type="yolo", model=model).build(classes, (size, size))


def describe(
    detector: Yolo, model: str, classes: Mapping[int, str], nms: NmsSpec, *, dynamic: bool
) -> Manifest:
    """Describe a YOLO in torch.

    Args:
        detector: the network.
        model: its name.
        classes: names by category id, in the order of the labels.
        nms: NMS settings; of a network without NMS only `max_detections` counts.
        dynamic: whether its ONNX graph takes any number of pictures.
    """
    height, width = detector.input_size
    if detector.spec.nms_free:
        nms = nms.model_copy(update={"mode": "none", "iou": 1.0})
    return Manifest(
        model=model,
        family="yolo",
        backend="torch",
        precision="fp32",
        parameters=count_parameters(detector),
        input=InputSpec(height=height, width=width, dynamic_batch=dynamic),
        classes=tuple(classes.values()),
        category_ids=tuple(classes),
        nms=nms,
    )


def write_both(detector: Yolo, manifest: Manifest, weights: Path) -> None:
    """Write a network as safetensors, and beside it as a checkpoint of Ultralytics (.pt)."""
    config = YoloConfig(type="yolo", model=manifest.model)
    save_model(detector.state_dict(), describe_model(config, manifest, {}), weights)
    export_pt(weights, weights.with_suffix(".pt"))
