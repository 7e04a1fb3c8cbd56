"""Memory of the machine, and models that would not fit it; found before they are built."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from compress.detector import Detector
from compress.detectors import DetectorConfig
from compress.stages.opened import Run
from export.errors import RecipeError
from export.reading.plain_yaml import Key

COPIES = 4  # weights, gradients and AdamW's two moments
GIB = 2**30
# Peak of a training step above weights and optimiser / outputs of layers: 1.1 to 1.9 in steps of
# 14 detectors on a CPU, the most for the smallest; gradients and functions between layers do it.
STEP = 1.3
HEADS = 1.5  # all outputs of a detector / those of its backbone and pyramid
# Below both no model of a picture fills a machine, and nothing is estimated.
LARGE_PIXELS, LARGE_CHANNELS, LARGE_WEIGHTS = 1600 * 1600, 1024, 50_000_000
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def machine_bytes(device: torch.device) -> float | None:
    """Return the memory of the device that trains; None where it is not known."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        found = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows has no such call
        return None
    try:
        return min(found, float(_CGROUP.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # no limit, or none of this kind
        return found


def refuse_oversized(run: Run) -> None:
    """Refuse models of which one picture needs more memory than the machine has.

    Raises:
        RecipeError: naming the model, the estimate and the machine's memory.
    """
    most = machine_bytes(run.session.torch_device())
    size = (run.data.input_height, run.data.input_width)
    parts: list[tuple[DetectorConfig, int, Key]]
    parts = [(t.config.detector, len(t.classes), (*t.keys, "detector")) for t in run.teachers]
    parts.append((run.recipe.student, run.data.num_classes, ("student",)))
    for config, classes, keys in parts:
        if most is None or not is_large(config, size):
            continue
        needed = step_bytes(config, classes, size)
        if needed > most:
            where = run.source.at(*keys, beside=[keys, ("data", "image_size")])
            raise RecipeError(
                f"{where}: a training step on one picture of {size[0]} x {size[1]} "
                f"takes about {needed / GIB:.0f} GiB, and this machine has {most / GIB:.0f}; lower "
                "data.image_size or the channels of the model"
            )


def is_large(config: DetectorConfig, size: tuple[int, int]) -> bool:
    """Whether a model is to be estimated before it is built."""
    channels, weights = config.largest()
    pixels = size[0] * size[1]
    return pixels > LARGE_PIXELS or channels > LARGE_CHANNELS or weights > LARGE_WEIGHTS


def output_bytes(module: torch.nn.Module, forward: Callable[[], object]) -> float:
    """Return the bytes of the outputs of all layers of `module` during `forward`, in fp32."""
    kept = [0]

    def add(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            kept[0] += output.numel() * 4

    leaves = [leaf for leaf in module.modules() if not list(leaf.children())]
    handles = [leaf.register_forward_hook(add) for leaf in leaves]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return float(kept[0])


def step_bytes(config: DetectorConfig, classes: int, size: tuple[int, int]) -> float:
    """Estimate the memory of a training step on one picture; computes nothing."""
    with torch.device("meta"):
        detector = config.build(classes, size).eval()
    weights = sum(p.numel() for p in detector.parameters())
    return COPIES * 4 * weights + planned_output_bytes(detector, size)


def planned_output_bytes(detector: Detector, size: tuple[int, int]) -> float:
    """Return what `output_bytes` would for one picture, of a detector on the meta device."""
    with torch.device("meta"), torch.inference_mode():
        images = torch.empty(1, 3, *size)
        try:
            return output_bytes(detector, lambda: detector.candidates(images))
        except RuntimeError:  # a family that mixes in tensors of the CPU behind its maps
            return HEADS * output_bytes(detector, lambda: detector.maps(images))
