"""A CUDA runtime of plain memory with a stream that runs late: what is not waited for is not there.

Answers like cuda-python: a tuple whose first element is the error.
"""

import ctypes
import enum
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

Error = enum.IntEnum(
    "Error", {"success": 0, "memory": 2, "driver": 35, "device": 101, "capture": 901}
)
_WORDS = {2: b"out of memory", 35: b"CUDA driver version is insufficient", 901: b"invalidated"}


class FakeCuda(ModuleType):
    """The calls that `export.backends.tensorrt.cuda` makes, and no other.

    Attributes whose names begin with an underscore are for the fake TensorRT and for tests.
    """

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(
        self, sm: str = "8.7", gpu: str = "Orin", devices: int = 1, memory: int = 1 << 24
    ) -> None:
        super().__init__("cuda.bindings.runtime")
        self._sm, self._gpu, self._devices, self._left = sm, gpu, devices, memory
        self._memory: dict[int, Any] = {}
        self._device_side: set[int] = set()
        self._streams: dict[int, list[Callable[[], object]]] = {}
        self._recording: list[Any] | None = None
        self._graphs: dict[int, list[Any]] = {}
        self._events: dict[int, float | None] = {}  # -> when it was passed
        self._now_ms = 0.0  # what runs moves it on
        self.launched = 0
        self._builds = 0

    def cudaGetErrorString(self, error: Any) -> Any:  # noqa: N802
        return Error.success, _WORDS.get(int(error), b"unknown error")

    def cudaGetDeviceCount(self) -> Any:  # noqa: N802
        return (Error.success, self._devices) if self._devices else (Error.driver, None)

    def cudaSetDevice(self, device: int) -> Any:  # noqa: N802
        return (Error.success if device < self._devices else Error.device,)

    def cudaDriverGetVersion(self) -> Any:  # noqa: N802
        return Error.success, 12060

    def cudaRuntimeGetVersion(self) -> Any:  # noqa: N802
        return Error.success, 12060

    def cudaGetDeviceProperties(self, device: int) -> Any:  # noqa: N802
        if device >= self._devices:
            return Error.driver, None
        major, minor = self._sm.split(".")
        facts = SimpleNamespace(name=self._gpu.encode(), major=int(major), minor=int(minor))
        return Error.success, facts

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:  # noqa: N802
        assert flags == 1
        handle = 1000 + len(self._streams)
        self._streams[handle] = []
        return Error.success, handle

    def cudaStreamDestroy(self, stream: int) -> Any:  # noqa: N802
        del self._streams[stream]
        return (Error.success,)

    def cudaStreamSynchronize(self, stream: int) -> Any:  # noqa: N802
        assert self._recording is None, "a recording stream cannot be waited for"
        queued, self._streams[stream] = self._streams[stream], []
        for work in queued:
            work()
        return (Error.success,)

    def cudaEventCreate(self) -> Any:  # noqa: N802
        self._events[2000 + len(self._events)] = None
        return Error.success, max(self._events)

    def cudaEventRecord(self, event: int, stream: int) -> Any:  # noqa: N802
        assert self._recording is None, "an event in a graph is no clock"
        self._events[event] = None

        def passed() -> None:
            self._events[event] = self._now_ms

        self._queue(stream, passed)
        return (Error.success,)

    def cudaEventSynchronize(self, event: int) -> Any:  # noqa: N802
        assert event in self._events
        for stream in self._streams:
            self.cudaStreamSynchronize(stream)
        return (Error.success,)

    def cudaEventElapsedTime(self, start: int, end: int) -> Any:  # noqa: N802
        before, after = self._events[start], self._events[end]
        assert before is not None, "the start was not waited for"
        assert after is not None, "the end was not waited for"
        return Error.success, after - before

    def cudaEventDestroy(self, event: int) -> Any:  # noqa: N802
        del self._events[event]
        return (Error.success,)

    def cudaMalloc(self, size: int) -> Any:  # noqa: N802
        if size > self._left:
            return Error.memory, None
        self._left -= size
        address = self._reserve(size)
        self._device_side.add(address)
        return Error.success, address

    def cudaMallocHost(self, size: int) -> Any:  # noqa: N802
        return Error.success, self._reserve(size)

    def cudaFree(self, pointer: int) -> Any:  # noqa: N802
        self._device_side.remove(pointer)
        del self._memory[pointer]
        return (Error.success,)

    def cudaFreeHost(self, pointer: int) -> Any:  # noqa: N802
        assert pointer not in self._device_side
        del self._memory[pointer]
        return (Error.success,)

    def cudaMemcpyAsync(  # noqa: N802
        self, target: int, source: int, count: int, kind: int, stream: int
    ) -> Any:
        device_end = target if kind == 1 else source
        assert device_end in self._device_side, "host memory where device memory belongs"
        for address in (target, source):
            if address in self._memory:  # other host memory is a numpy array's
                assert count <= len(self._memory[address])

        def copy() -> None:
            ctypes.memmove(target, source, count)
            self._now_ms += 5

        self._queue(stream, copy)
        return (Error.success,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> Any:  # noqa: N802
        assert mode == 1
        assert not self._streams[stream], "recording began with work under way"
        self._recording = []
        return (Error.success,)

    def cudaStreamEndCapture(self, stream: int) -> Any:  # noqa: N802
        assert self._streams[stream] == []
        recorded, self._recording = self._recording, None
        assert recorded is not None, "nothing was being recorded"
        if None in recorded:
            return Error.capture, None
        self._graphs[len(self._graphs) + 1] = recorded
        return Error.success, len(self._graphs)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> Any:  # noqa: N802
        assert flags == 0
        self._graphs[-graph] = self._graphs[graph]
        return Error.success, -graph

    def cudaGraphDestroy(self, graph: int) -> Any:  # noqa: N802
        self._graphs[graph] = []
        return (Error.success,)

    def cudaGraphExecDestroy(self, graph: int) -> Any:  # noqa: N802
        del self._graphs[graph]
        return (Error.success,)

    def cudaGraphLaunch(self, graph: int, stream: int) -> Any:  # noqa: N802
        self.launched += 1
        for work in self._graphs[graph]:
            self._queue(stream, work)
        return (Error.success,)

    def _reserve(self, size: int) -> int:
        memory = (ctypes.c_byte * size)()
        address = ctypes.addressof(memory)
        self._memory[address] = memory
        return address

    def _owned(self, address: int) -> None:
        assert address in self._device_side, "not an address of the device"

    def _queue(self, stream: int, work: Callable[[], object]) -> None:
        (self._streams[stream] if self._recording is None else self._recording).append(work)

    def _read(self, address: int, count: int, dtype: Any) -> Any:
        return np.frombuffer(self._memory[address], dtype=dtype, count=count)

    def _write(self, address: int, values: Any) -> None:
        content = np.ascontiguousarray(values).tobytes()
        assert len(content) <= len(self._memory[address])
        ctypes.memmove(address, content, len(content))
