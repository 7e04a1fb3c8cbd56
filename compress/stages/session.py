"""Per-process state of a run: folder, device, Fabric, console."""

import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress.console import Console
from compress.tracking.tracker import Trackers
from compress.training.precision import Precision
from export.errors import MissingDependencyError, RecipeError, shown
from export.optional import require

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Session:
    """One process of a run.

    torchrun sets rank and world size in the environment; Lightning Fabric connects the processes.
    All of them train; only the first one writes, exports and measures.

    Attributes:
        home: folder of the run.
        device: auto, cpu, cuda or cuda:N.
        console: output for the user.
    """

    home: Path
    device: str
    console: Console
    trackers: Trackers = field(default_factory=Trackers)  # empty in all processes but the first
    _fabrics: dict[str, "Fabric"] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return int(os.environ.get("RANK", "0"))

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(os.environ.get("WORLD_SIZE", "1"))

    def torch_device(self) -> torch.device:
        """Return the device that `device` names.

        Raises:
            RecipeError: the machine has no such device. There is no fallback to the CPU.
        """
        return torch_device(self.device)

    def fabric(self, precision: Precision) -> "Fabric":
        """Return the Fabric of all processes that computes in `precision`."""
        if precision not in self._fabrics:
            lightning_fabric = require(
                "lightning_fabric", extra="train", purpose="training a detector"
            )
            device = self.torch_device()
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            devices: int | list[int] = local
            if self.world == 1 and device.type == "cuda":
                devices = [device.index or 0]
            fabric: Fabric = lightning_fabric.Fabric(
                accelerator=device.type,
                devices=devices,
                num_nodes=self.world // local,
                strategy="ddp" if self.world > 1 else "auto",
                precision=precision,
            )
            fabric.launch()
            self._fabrics[precision] = fabric
        return self._fabrics[precision]


def torch_device(name: str) -> torch.device:
    """Return the device named `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        RecipeError: the machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(
            f"--device {shown(name)}: is not a device; use auto, cpu, cuda or cuda:0"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"--device {shown(name)}: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; use --device cpu, or check the driver"
        )
    if device.type not in {"cpu", "cuda"}:
        raise RecipeError(f"--device {shown(name)}: only cpu and cuda are supported")
    return device


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory so far in MiB: torch's count on a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        raise MissingDependencyError("peak memory needs a POSIX system") from None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def deterministic(device: torch.device) -> None:
    """Use deterministic algorithms on the CPU; GPUs keep their fast kernels."""
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if platform.machine() == "x86_64":
        torch.set_flush_denormal(True)  # denormal BatchNorm statistics are 10x slower on CPUs
