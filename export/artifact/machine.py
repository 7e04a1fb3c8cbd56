"""The machine an engine was built on, and whether another one may run it."""

import platform
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from export.config import Section

Portable = Literal["none", "same_sm", "ampere_plus"]

_DRIVER = Path("/proc/driver/nvidia/version")
_AMPERE = (8, 0)


class Machine(Section):
    """What a TensorRT plan depends on."""

    tensorrt: str
    cuda: str  # of the runtime library
    driver: str
    gpu: str
    compute_capability: str  # "8.9", also called the SM
    platform: str  # "linux-x86_64"

    def __str__(self) -> str:
        return f"TensorRT {self.tensorrt} and {self.gpu} (SM {self.compute_capability})"


class BatchProfile(Section):
    """Batch sizes that an engine of a graph with any batch is built for."""

    min: PositiveInt = 1
    opt: PositiveInt = 1
    max: PositiveInt = 1


class BuildTimes(Section):
    """Times of the engines of several builds of one graph, without copies.

    TensorRT chooses kernels by timing them, so two builds of one graph differ.
    """

    p50_ms: tuple[float, ...]  # of each build, on a blank picture, in order of building
    spread: float = Field(ge=0)  # slowest less fastest, as a share of the median build
    kept: NonNegativeInt  # index of the fastest, which this engine is
    calls: PositiveInt  # of each
    batch: PositiveInt


class EngineRecord(Section):
    """How a TensorRT plan was made; part of its sidecar."""

    built_on: Machine
    onnx: str  # file name of the graph it was built from
    onnx_sha256: str
    strongly_typed: bool
    flags: tuple[str, ...]  # builder flags that were set, by name
    optimization_level: NonNegativeInt
    workspace_mib: PositiveInt | None = None
    portable: Portable = "none"
    version_compatible: bool = False
    profile: BatchProfile | None = None  # None where the graph fixes the batch
    timing_cache_sha256: str | None = None
    build_seconds: float = Field(ge=0)
    layers: NonNegativeInt
    device_memory_bytes: NonNegativeInt
    builds: BuildTimes | None = None  # None where there was one build, or no time could be taken
    not_timed: str | None = None  # why the GPU could not run it after the build


def platform_name() -> str:
    """Name operating system and processor, as plans depend on both."""
    return f"{platform.system().lower()}-{platform.machine().lower()}"


def driver_version(supported_cuda: int) -> str:
    """Return the NVIDIA driver's version, or the CUDA version it supports where it hides it.

    Args:
        supported_cuda: number from the CUDA runtime; 12060 means 12.6.
    """
    try:
        found = re.search(r"Kernel Module\D*(\d+\.\d+[.\d]*)", _DRIVER.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found else f"for CUDA {cuda_version(supported_cuda)}"


def cuda_version(number: int) -> str:
    """Write 12060 as 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"


def differences(record: EngineRecord, here: Machine) -> list[str]:
    """Return, in words, each difference that forbids running the engine here."""
    built = record.built_on
    found = []
    if not _same_tensorrt(built.tensorrt, here.tensorrt, record.version_compatible):
        found.append(f"TensorRT {built.tensorrt} (here: {here.tensorrt})")
    if not _runs_on(built.compute_capability, here.compute_capability, record.portable):
        found.append(
            f"a GPU of SM {built.compute_capability}, {built.gpu} (here: SM "
            f"{here.compute_capability}, {here.gpu})"
        )
    if built.platform != here.platform:
        found.append(f"{built.platform} (here: {here.platform})")
    return found


def cautions(record: EngineRecord, here: Machine) -> list[str]:
    """Return, in words, the differences that may only cost speed."""
    built = record.built_on
    found = []
    if built.gpu != here.gpu:
        found.append(f"GPU {built.gpu} (here: {here.gpu})")
    if built.cuda.partition(".")[0] != here.cuda.partition(".")[0]:
        found.append(f"CUDA {built.cuda} (here: {here.cuda})")
    return found


def _same_tensorrt(built: str, here: str, version_compatible: bool) -> bool:
    if not version_compatible:
        return built == here
    # A version-compatible plan runs on its own and on later versions of the same major.
    return numbers(built)[0] == numbers(here)[0] and numbers(here) >= numbers(built)


def _runs_on(built: str, here: str, portable: Portable) -> bool:
    if portable == "ampere_plus":
        return numbers(here) >= _AMPERE
    return built == here


def numbers(version: str) -> tuple[int, ...]:
    """Read "10.13.3.9.post1" as (10, 13, 3, 9, 1), to be compared."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
