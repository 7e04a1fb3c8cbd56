"""A TensorRT plan with its sidecar as an engine; runs on the machine it was built on, no torch."""

import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from export.artifact.machine import EngineRecord, Machine, cautions, differences
from export.artifact.manifest import Manifest
from export.artifact.sidecar import read_artifact, verify_artifact
from export.backends.tensorrt.cuda import CudaDevice, load_cuda
from export.backends.tensorrt.library import load_tensorrt
from export.backends.tensorrt.plan import Plan
from export.backends.tensorrt.settings import TensorRTConfig
from export.detections import Candidates
from export.errors import ExportError
from export.pictures.images import Images


class TensorRTEngine:
    """One plan with its sidecar. Loads on enter, frees on exit; for one thread at a time.

    `upload`, `enqueue`, `download` and `synchronize` are the parts of `candidates`, for measuring
    the model alone and the model with its copies.
    """

    def __init__(
        self,
        path: Path,
        config: TensorRTConfig,
        *,
        trt: ModuleType | None = None,
        cuda: ModuleType | None = None,
    ) -> None:
        """Read the sidecar; the plan is loaded on enter. Tests replace `trt` and `cuda`.

        Raises:
            ExportError: the sidecar is missing or broken, or describes another kind of artifact.
        """
        self.path = path
        self.config = config
        self._manifest = read_artifact(path, config.precision)
        if self._manifest.engine is None:
            raise ExportError(
                f"{path}: its sidecar does not say what it was built on; build the engine again "
                "with python -m export.build"
            )
        self._record = self._manifest.engine
        self._modules = (trt, cuda)
        self._device: CudaDevice | None = None
        self._plan: Plan | None = None

    @property
    def manifest(self) -> Manifest:
        """Input size, classes and NMS settings of the artifact."""
        return self._manifest

    @property
    def device(self) -> str:
        """Where it computes: a GPU, by CUDA."""
        return "cuda"

    @property
    def clock(self) -> str:
        """What measures `pass_ms`."""
        return "CUDA events"

    @property
    def uses_graph(self) -> bool:
        """Whether the next call with the same batch replays a CUDA graph."""
        return self._plan is not None and self._plan.uses_graph

    @property
    def graph_refused(self) -> str | None:
        """Why no CUDA graph could be recorded; None where one could, or none was tried."""
        return None if self._plan is None else self._plan.graph_refused

    def candidates(self, images: Images) -> Candidates:
        """Return boxes for a batch of the plan's input shape and type.

        Raises:
            ExportError: the engine is closed, the batch does not fit, or the GPU failed.
        """
        self.upload(images)
        self.enqueue()
        return Candidates.from_outputs(self.download())

    def upload(self, images: Images) -> None:
        """Set the batch and queue its copy to the GPU."""
        self._open().upload(images)

    def enqueue(self) -> None:
        """Queue one pass on the uploaded batch."""
        self._open().enqueue()

    def pass_ms(self) -> float:
        """Run one pass on the uploaded batch; return its milliseconds by CUDA events."""
        return self._open().pass_ms()

    def download(self) -> dict[str, NDArray[np.generic]]:
        """Queue the copy of every output to the host, wait, and return copies by name."""
        return self._open().download()

    def synchronize(self) -> None:
        """Wait for all that was queued."""
        self._open().synchronize()

    def __enter__(self) -> Self:
        """Load the plan.

        Raises:
            ExportError: the file is not the one the sidecar describes, was built for another
                machine, or TensorRT refuses it.
            MissingDependencyError: TensorRT or cuda-python is not installed.
        """
        verify_artifact(self.path, self._manifest)
        trt, cuda = self._modules
        trt = trt or load_tensorrt(f"Running {self.path}")
        record, precision = self._record, self._manifest.precision
        self._device = CudaDevice(cuda or load_cuda(), self.config.device)
        try:
            here = self._device.machine(trt.__version__)
            refuse_other_machine(self.path, precision, record, here)
            self._plan = Plan(
                trt,
                self.path,
                self.path.read_bytes(),
                self._manifest.input,
                host_code=record.version_compatible,
                cuda_graph=self.config.cuda_graph,
                advice=f"; {rebuild_command(record, precision)}",
            )
            self._plan.prepare(self._device)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Free it."""
        self._close()

    def _open(self) -> Plan:
        if self._plan is None:
            raise ExportError(f"{self.path}: not loaded; use the engine inside a `with` statement")
        return self._plan

    def _close(self) -> None:
        plan, self._plan = self._plan, None
        if plan is not None:
            plan.close()
        device, self._device = self._device, None
        if device is not None:
            device.close()


def refuse_other_machine(path: Path, precision: str, record: EngineRecord, here: Machine) -> None:
    """Refuse an engine that was built for another machine; warn where only speed may suffer.

    Raises:
        ExportError: the message states what differs and the command to run.
    """
    found = differences(record, here)
    if found:
        raise ExportError(
            f"{path}: was built for {' and '.join(found)}; {rebuild_command(record, precision)}"
        )
    slower = cautions(record, here)
    if slower:
        warnings.warn(
            f"{path}: was built on {' and '.join(slower)}; it runs, and one built here may be "
            f"faster: {rebuild_command(record, precision)}",
            stacklevel=3,
        )


def rebuild_command(record: EngineRecord, precision: str) -> str:
    """Return the command that builds the engine on this machine."""
    return (
        f"build it here: python -m export.build {record.onnx} --backend tensorrt "
        f"--precision {precision} --out DIR"
    )
