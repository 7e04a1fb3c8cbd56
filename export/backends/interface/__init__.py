"""Interfaces of engines and of the backends that make them."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from typing_extensions import Self

from export.artifact.manifest import Manifest
from export.config import Section, Threads
from export.detections import Candidates
from export.pictures.images import Images


class EngineSettings(Section):
    """Settings of an engine; a backend ignores those that do not apply to it."""

    threads: Threads | None = None  # CPU threads; None: the physical cores of this process
    device: str = "cpu"  # one of the backend's `devices`
    cuda_graph: bool = False  # record a pass as a CUDA graph and replay it


class Engine(Protocol):
    """A loaded model. Loads on enter, frees on exit."""

    @property
    def manifest(self) -> Manifest:
        """Input size, classes and NMS settings of the artifact."""

    @property
    def device(self) -> str:
        """Where it computes: cpu, or a name of a device with memory of its own."""

    def candidates(self, images: Images) -> Candidates:
        """Return boxes for the output of `to_input`, once they are on the host."""

    def __enter__(self) -> Self:
        """Load the model."""

    def __exit__(self, *_: object) -> None:
        """Free it."""


@runtime_checkable
class DeviceEngine(Protocol):
    """An engine that can run on a batch that is on its device already.

    This depends on the engine and not on its backend: ONNX Runtime has it on CUDA, not on the CPU.
    """

    def upload(self, images: Images) -> None:
        """Copy a batch to the device."""

    def enqueue(self) -> None:
        """Queue one pass over it; outputs stay on the device."""

    def synchronize(self) -> None:
        """Wait for all that was queued."""


@runtime_checkable
class EventTimed(DeviceEngine, Protocol):
    """A device engine whose device measures time itself."""

    @property
    def clock(self) -> str:
        """What measures `pass_ms`, for the report: "CUDA events"."""

    def pass_ms(self) -> float:
        """Run one pass over what was uploaded last; return the device's milliseconds for it."""


@dataclass(frozen=True)
class Triton:
    """How Triton Inference Server runs an artifact.

    Attributes:
        backend: Triton's name of the runtime.
        file: file name that it expects in the model's version folder.
        options: further lines of `config.pbtxt`.
    """

    backend: str
    file: str
    options: tuple[str, ...] = ()


class Backend(Protocol):
    """A runtime for artifacts: how they are built, opened and described.

    `export.backends.BACKENDS` holds one object per runtime, under the name that sidecars state.
    """

    @property
    def devices(self) -> tuple[str, ...]:
        """Values of `EngineSettings.device` between which it has a choice."""

    @property
    def graphs(self) -> Mapping[str, str]:
        """Precision that it can build -> precision of the ONNX file that it builds it from."""

    @property
    def runs_graphs(self) -> bool:
        """Whether it runs ONNX files as they are: to build one is to make it in a precision."""

    @property
    def packages(self) -> str:
        """What verifying its artifacts needs besides numpy, in words."""

    def requirements(self) -> Mapping[str, tuple[str, ...]]:
        """Return runtime in words -> its packages, as pip takes them, in the version used here.

        Called where an artifact of this backend was opened, so the runtime is here.
        """

    @property
    def session(self) -> Path:
        """File of which every bundle holds a copy as `verify_<backend>.py`.

        A module that imports nothing of ours and opens an artifact; see
        `export.artifact.bundle_runs.SessionModule`.
        """

    def open(self, path: Path, settings: EngineSettings) -> Engine:
        """Return the engine of the artifact at `path`; it loads on enter.

        Raises:
            ExportError: the sidecar states what this backend cannot open.
        """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of `export.build` that are this backend's alone, in a group."""

    def check(self, model: Path, settings: Mapping[str, object]) -> None:
        """Refuse what cannot be built here, before minutes of calibration.

        Args:
            model: the ONNX file, for messages.
            settings: values of the command's options by name; `precision` is always there.

        Raises:
            ExportError: the settings contradict each other, or this machine cannot build it.
            MissingDependencyError: a package is not installed.
        """

    def build(self, graph: Path, folder: Path, settings: Mapping[str, object]) -> Path:
        """Build an artifact with its sidecar in `folder`; return its path.

        Args:
            graph: ONNX file in the precision that `graphs` states, with its sidecar.
            folder: output folder, created if missing.
            settings: values of the command's options, as for `check`.

        Raises:
            ExportError: it cannot be built.
            MissingDependencyError: a package is not installed.
        """

    def summary(self, path: Path) -> str:
        """Describe what `build` made, in the lines that the command prints."""

    def made_for(self, manifest: Manifest) -> str:
        """Name the machines that run an artifact, for a bundle's README."""

    def triton(self, manifest: Manifest) -> Triton | None:
        """Return how Triton runs an artifact; None where it has no such backend."""

    def script(self, files: Mapping[str, Manifest]) -> list[str]:
        """Return the lines that `build_engines.sh` of a bundle builds its artifacts with.

        Args:
            files: path inside the bundle -> sidecar, of every artifact there.
        """
