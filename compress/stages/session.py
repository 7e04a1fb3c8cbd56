"""What a run holds on to from stage to stage: its folder, its processes, its voice."""

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
from export.errors import MissingDependencyError, RecipeError
from export.optional import require

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Session:
    """One process of a run.

    torchrun's environment variables say how many processes there are; Lightning Fabric joins
    them. All processes train; the first alone writes, exports and measures.
    """

    home: Path
    device: str  # auto, cpu, cuda, cuda:1
    console: Console
    trackers: Trackers = field(default_factory=Trackers)  # none but in the first process of a run
    _fabrics: dict[str, "Fabric"] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """This process's number."""
        return int(os.environ.get("RANK", "0"))

    @property
    def world(self) -> int:
        """How many processes."""
        return int(os.environ.get("WORLD_SIZE", "1"))

    def torch_device(self) -> torch.device:
        """The device that `device` names.

        Raises:
            RecipeError: there is no such device; never a silent step down to the CPU.
        """
        return torch_device(self.device)

    def fabric(self, precision: Precision) -> "Fabric":
        """The processes joined, computing in `precision`."""
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
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that is here.

    Raises:
        RecipeError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f"--device {name}: is no device; say auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices; say --device cpu, or mend the driver"
        )
    if device.type not in {"cpu", "cuda"}:
        raise RecipeError(f"--device {name}: only cpu and cuda are supported")
    return device


def peak_memory_mb(device: torch.device) -> float:
    """Most memory in use so far: of the GPU as torch counts it, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        raise MissingDependencyError("peak memory needs a POSIX system") from None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def deterministic(device: torch.device) -> None:
    """Make the CPU's sums come in one order; GPUs keep their fast kernels."""
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if platform.machine() == "x86_64":
        torch.set_flush_denormal(True)  # fading BatchNorm statistics otherwise cost 10x on CPUs
