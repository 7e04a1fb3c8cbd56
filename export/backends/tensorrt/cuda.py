"""The calls of the CUDA runtime needed to run an engine, through cuda-python."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.artifact.machine import Machine, cuda_version, driver_version, platform_name
from export.errors import ExportError, MissingDependencyError
from export.optional import require

_NON_BLOCKING = 1  # cudaStreamNonBlocking: does not wait for the default stream


def load_cuda() -> ModuleType:
    """Return cuda-python's module of the CUDA runtime.

    Raises:
        MissingDependencyError: it is not installed.
    """
    purpose = "Running a TensorRT engine"
    try:
        return require("cuda.bindings.runtime", extra="tensorrt", purpose=purpose)
    except (ModuleNotFoundError, MissingDependencyError):
        pass
    try:
        return require("cuda.cudart", extra="tensorrt", purpose=purpose)  # before cuda-python 12.6
    except (ModuleNotFoundError, MissingDependencyError):
        raise MissingDependencyError(
            f"{purpose} needs the Python package cuda-python, which is not installed. Install it "
            "with: pip install cuda-python (the version of your CUDA: 'cuda-python<13' on CUDA 12)"
        ) from None


@dataclass(frozen=True)
class Buffer:
    """One tensor's memory on the device and its page-locked twin on the host, in bytes."""

    device: int
    host: int
    size: int

    def view(self, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
        """Return the host memory's start as an array that shares it."""
        count = int(np.prod(shape, dtype=np.int64))
        raw = (ctypes.c_byte * (count * dtype.itemsize)).from_address(self.host)
        array: NDArray[np.generic] = np.frombuffer(memoryview(raw).cast("B"), dtype=dtype)
        return array.reshape(shape)


class CudaDevice:
    """One stream of one device, and the memory and graphs that were made on it.

    Every failing call raises `ExportError` with CUDA's message. Not thread-safe.
    """

    def __init__(self, cuda: ModuleType, index: int = 0) -> None:
        """Choose the device and make its stream; `cuda` is cuda-python's runtime module.

        Raises:
            ExportError: there is no such device, or no driver for it.
        """
        self._cuda = cuda
        self.index = index
        self._buffers: list[Buffer] = []
        self._graph: Any = None
        self._stream: Any = None
        self._events: list[Any] = []  # start and end of a timed span, made at the first one
        (count,) = self._ask("looking for a GPU", cuda.cudaGetDeviceCount())
        if index >= count:
            raise ExportError(f"CUDA device {index} was asked for, and this machine has {count}")
        self._ask("choosing the GPU", cuda.cudaSetDevice(index))
        # Its own stream: on the default one TensorRT would synchronise at every call.
        (self._stream,) = self._ask(
            "making a stream", cuda.cudaStreamCreateWithFlags(_NON_BLOCKING)
        )

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream)

    def machine(self, tensorrt_version: str) -> Machine:
        """Describe device and machine."""
        return describe_machine(self._cuda, tensorrt_version, self.index)

    def allocate(self, size: int) -> Buffer:
        """Reserve `size` bytes on the device and on the host."""
        what = f"reserving {size / 2**20:.1f} MiB"
        (device,) = self._ask(what, self._cuda.cudaMalloc(size))
        try:
            (host,) = self._ask(what, self._cuda.cudaMallocHost(size))
        except ExportError:
            self._cuda.cudaFree(device)
            raise
        self._buffers.append(Buffer(int(device), int(host), size))
        return self._buffers[-1]

    def upload(self, buffer: Buffer, size: int) -> None:
        """Queue the copy of the first `size` bytes from host to device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        copied = self._cuda.cudaMemcpyAsync(buffer.device, buffer.host, size, kind, self._stream)
        self._ask("copying to the GPU", copied)

    def download(self, buffer: Buffer, size: int) -> None:
        """Queue the copy of the first `size` bytes from device to host."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        copied = self._cuda.cudaMemcpyAsync(buffer.host, buffer.device, size, kind, self._stream)
        self._ask("copying from the GPU", copied)

    def synchronize(self) -> None:
        """Wait until all that was queued is done."""
        self._ask("running the engine", self._cuda.cudaStreamSynchronize(self._stream))

    def span_ms(self, queue: Callable[[], None]) -> float:
        """Run `queue` and wait; return the milliseconds that its work took on the stream.

        Measured by two events on the stream, so the host's time is excluded if the host is ahead.
        """
        doing = "timing the engine"
        while len(self._events) < 2:
            self._events += self._ask(doing, self._cuda.cudaEventCreate())
        start, end = self._events
        self._ask(doing, self._cuda.cudaEventRecord(start, self._stream))
        queue()
        self._ask(doing, self._cuda.cudaEventRecord(end, self._stream))
        self._ask(doing, self._cuda.cudaEventSynchronize(end))
        (milliseconds,) = self._ask(doing, self._cuda.cudaEventElapsedTime(start, end))
        return float(milliseconds)

    def begin_capture(self) -> None:
        """Start recording queued work instead of running it."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._ask("recording", self._cuda.cudaStreamBeginCapture(self._stream, mode))

    def end_capture(self) -> None:
        """Stop recording and build the graph that `launch` runs.

        Raises:
            ExportError: something was queued that cannot be recorded; the stream is usable again.
        """
        self.drop_graph()
        (recorded,) = self._ask("recording", self._cuda.cudaStreamEndCapture(self._stream))
        try:
            (self._graph,) = self._ask(
                "making a CUDA graph", self._cuda.cudaGraphInstantiate(recorded, 0)
            )
        finally:
            self._cuda.cudaGraphDestroy(recorded)

    def launch(self) -> None:
        """Queue the graph."""
        self._ask("running the CUDA graph", self._cuda.cudaGraphLaunch(self._graph, self._stream))

    def drop_graph(self) -> None:
        """Forget the graph, if there is one."""
        if self._graph is not None:
            self._cuda.cudaGraphExecDestroy(self._graph)
            self._graph = None

    def close(self) -> None:
        """Free buffers, events and stream; errors are not raised again."""
        self.drop_graph()
        for buffer in self._buffers:
            self._cuda.cudaFree(buffer.device)
            self._cuda.cudaFreeHost(buffer.host)
        self._buffers.clear()
        while self._events:
            self._cuda.cudaEventDestroy(self._events.pop())
        if self._stream is not None:
            self._cuda.cudaStreamDestroy(self._stream)
            self._stream = None

    def _ask(self, doing: str, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        return checked(self._cuda, doing, answer)


def describe_machine(cuda: ModuleType, tensorrt_version: str, index: int = 0) -> Machine:
    """Describe device `index` and the machine around it.

    Raises:
        ExportError: there is no such device, or no driver for it.
    """
    (driver,) = checked(cuda, "reading the driver's version", cuda.cudaDriverGetVersion())
    (runtime,) = checked(cuda, "reading CUDA's version", cuda.cudaRuntimeGetVersion())
    (facts,) = checked(cuda, "looking for a GPU", cuda.cudaGetDeviceProperties(index))
    name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
    return Machine(
        tensorrt=tensorrt_version,
        cuda=cuda_version(int(runtime)),
        driver=driver_version(int(driver)),
        gpu=name.rstrip("\0"),
        compute_capability=f"{facts.major}.{facts.minor}",
        platform=platform_name(),
    )


def checked(cuda: ModuleType, doing: str, answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values of a CUDA call's answer, whose first element is its error code.

    Raises:
        ExportError: with CUDA's own words.
    """
    code, *values = answer
    if int(code) != 0:
        said = cuda.cudaGetErrorString(code)[1]
        words = said.decode() if isinstance(said, bytes) else str(said)
        raise ExportError(f"CUDA failed while {doing}: {words} (error {int(code)})")
    return tuple(values)
