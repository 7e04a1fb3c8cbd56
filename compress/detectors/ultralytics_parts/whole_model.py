"""Write a detector as a checkpoint of the package `ultralytics`, for its own tools."""

from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import nn

from compress.detector import Detector
from compress.detectors.ultralytics_parts.package import load_package, whole_network
from export.errors import ExportError, ToolkitError


def save_whole(detector: Detector, model: str, input_size: tuple[int, int], out: Path) -> str:
    """Write what `ultralytics.YOLO(out)` or `RTDETR(out)` loads; return the package and licence.

    Weights stay FP32, so that the package finds the same boxes.

    Args:
        detector: trained, with its class names in `spec.classes`.
        model: name of its network, such as yolo11n.
        input_size: height and width of its input.
        out: the file to write.

    Raises:
        MissingDependencyError: the package is missing or of another version.
        ExportError: the package's network has other tensors than the detector.
        ToolkitError: the file cannot be written.
    """
    package = load_package()
    whole = whole_network(model, detector.spec.num_classes)
    _fill(whole, detector, model)
    whole.names = dict(enumerate(detector.spec.classes))  # type: ignore[assignment]
    whole.task = "detect"  # type: ignore[assignment]
    head = whole.get_submodule("model")[-1]  # type: ignore[index]
    if getattr(head, "one2one_cv2", None) is not None:
        head.end2end = detector.spec.nms_free  # the branch that the detector was evaluated with
    content = {
        "epoch": -1,
        "best_fitness": None,
        "model": whole.eval().requires_grad_(False),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": {
            "task": "detect",
            "mode": "train",
            "model": f"{model}.yaml",
            "data": None,
            "imgsz": max(input_size),
        },
        "date": datetime.now(timezone.utc).isoformat(),
        "version": package.version,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
    }
    partial = out.with_name(f"{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, partial)
        partial.replace(out)
    except (OSError, RuntimeError) as error:  # torch wraps the disk's error in its own kind
        partial.unlink(missing_ok=True)
        raise ToolkitError(f"{out}: cannot be written ({error}); make room on the disk") from error
    return package.licence


def _fill(whole: nn.Module, detector: Detector, model: str) -> None:
    """Copy the detector's tensors into the package's model, whose names are its own.

    Raises:
        ExportError: one has no place there.
    """
    own, named = detector.state_dict(), detector.renamed(whole.state_dict())
    odd = sorted(own.keys() ^ named.keys())
    odd += [name for name in own.keys() & named.keys() if own[name].shape != named[name].shape]
    if odd:
        raise ExportError(
            f"the installed package's {model} and the trained one differ in {len(odd)} tensors "
            f"({', '.join(odd[:3])}); install the version that it was trained with"
        )
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(own[name])
