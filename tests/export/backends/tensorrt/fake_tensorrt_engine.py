"""The running half of the fake TensorRT: plans, engines and contexts."""

import json
from typing import Any

import numpy as np

CELLS = 4  # boxes per picture


class Strict:
    """An object whose attributes are those its class declares."""

    _settable: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self._settable:
            raise AttributeError(f"{type(self).__name__} has no attribute {name} to set")
        object.__setattr__(self, name, value)


class Logger(Strict):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        object.__setattr__(self, "_ready", False)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # users derive from it

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError

    def _plugins(self, namespace: str) -> bool:
        assert namespace == ""
        self._ready = True
        return True


class PrintingLogger(Logger):
    """TensorRT's own, which here prints nothing."""

    def __init__(self, min_severity: int = 2) -> None:
        super().__init__()
        assert 0 <= min_severity <= 4

    def log(self, severity: int, message: str) -> None:
        pass


class Profiler:
    """What a profiler of one's own derives from, and must initialise."""

    def __init__(self) -> None:
        self._ready = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class Runtime(Strict):
    _settable = frozenset({"engine_host_code_allowed"})

    def __init__(self, logger: Any, trt: Any, cuda: Any) -> None:
        assert isinstance(logger, Logger)
        assert logger._ready, "plugins must be registered before an engine is loaded"
        self._logger, self._trt, self._cuda = logger, trt, cuda
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "Engine | None":
        if not serialized_engine.startswith(b"plan"):
            self._logger.log(Logger.ERROR, "Serialization assertion magicTagRead failed")
            return None
        plan = json.loads(serialized_engine[4:])
        if "VERSION_COMPATIBLE" in plan["flags"]:
            assert self.engine_host_code_allowed, "version-compatible plans carry host code"
        elif plan["version"] != self._trt.__version__:
            self._logger.log(Logger.ERROR, "Version tag does not match")
            return None
        return Engine(plan, self._logger, self._trt, self._cuda)


class Engine(Strict):
    def __init__(self, plan: Any, logger: Any, trt: Any, cuda: Any) -> None:
        self._plan, self._logger, self._trt, self._cuda = plan, logger, trt, cuda
        (self._input, shape), self._outputs = plan["inputs"][0], plan["outputs"]
        self._shape = tuple(shape)

    num_layers = 3
    device_memory_size_v2 = 4096

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._trt.HardwareCompatibilityLevel[self._plan["level"]]

    @property
    def num_io_tensors(self) -> int:
        return 1 + len(self._outputs)

    def get_tensor_name(self, index: int) -> str:
        names: list[str] = [*self._outputs, self._input]  # the input is not promised to be first
        return names[index]

    def get_tensor_mode(self, name: str) -> Any:
        return (
            self._trt.TensorIOMode.INPUT if name == self._input else self._trt.TensorIOMode.OUTPUT
        )

    def get_tensor_dtype(self, name: str) -> Any:
        own = {"labels": self._plan["labels"], self._input: self._plan["input"]}
        return self._trt.DataType[own.get(name, "FLOAT")]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == self._input
        return self._shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == self._input
        assert profile_index == 0
        return [tuple(shape) for shape in self._plan["profile"]]

    def create_execution_context(self) -> "Context | None":
        if "memory" in self._plan["broken"]:
            self._logger.log(Logger.ERROR, "Requested amount of GPU memory could not be allocated")
            return None
        return Context(self)

    def create_engine_inspector(self) -> "Inspector":
        return Inspector(self)


class Inspector(Strict):
    _settable = frozenset({"execution_context"})

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.execution_context: Context | None = None

    def get_engine_information(self, format: Any) -> str:
        plan, trt = self._engine._plan, self._engine._trt
        assert format == trt.LayerInformationFormat.JSON
        if not plan["detailed"]:
            return '{"Layers": ["conv", "head"]}'
        context = self.execution_context
        open_ = -1 in self._engine._shape and (context is None or not context._inferred)

        def tensor(kind: str) -> dict[str, str]:
            form = "N/A due to dynamic shapes" if open_ else f"Row major linear {kind} format"
            if trt.__version__.startswith("10."):
                return {"Name": "features", "Format/Datatype": form}
            return {"Name": "features", "Format": "Row major linear", "Datatype": form}

        def layer(name: str, kind: str, taken: str, given: str) -> dict[str, Any]:
            ends = {"Inputs": [tensor(taken)], "Outputs": [tensor(given)]}
            return {"Name": name, "LayerType": kind, **ends}

        own = plan["types"]
        layers = [
            layer("reformat", "Reformat", "FP32", own),
            layer("conv", "CaskConvolution", own, own),
            {"Name": "anchors", "LayerType": "Constant", "Inputs": [], "Outputs": [tensor("FP32")]},
        ]
        return json.dumps({"Layers": layers})


class Context(Strict):
    _settable = frozenset({"profiler", "enqueue_emits_profile"})

    def __init__(self, engine: Engine) -> None:
        self.profiler: Profiler | None = None
        self.enqueue_emits_profile = True
        self._engine = engine
        self._shape = engine._shape if -1 not in engine._shape else None
        self._addresses: dict[str, int] = {}
        self._inferred = False
        self._enqueued = 0  # since the shape was set

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == self._engine._input
        allowed = self._engine._plan["profile"] or [self._engine._shape] * 3
        if not all(a <= b <= c for a, b, c in zip(allowed[0], shape, allowed[2], strict=True)):
            self._engine._logger.log(Logger.ERROR, f"{shape} is outside of the profile")
            return False
        self._shape, self._inferred, self._enqueued = shape, False, 0
        return True

    def infer_shapes(self) -> list[str]:
        self._inferred = self._shape is not None
        return [] if self._inferred else [self._engine._input]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self._inferred, "shapes must be inferred before they are asked for"
        assert self._shape is not None
        batch = self._shape[0]
        boxes = -1 if "dynamic" in self._engine._plan["broken"] else CELLS
        return {"boxes": (batch, boxes, 4), self._engine._input: self._shape}.get(
            name, (batch, boxes)
        )

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._engine._cuda._owned(memory)
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle != 0, "the default stream makes TensorRT synchronise"
        assert self._inferred
        missing = {self._engine._input, *self._engine._outputs} - self._addresses.keys()
        assert not missing, f"no address for {missing}"
        cuda = self._engine._cuda
        if cuda._recording is not None:
            assert self.profiler is None, "a profiled pass cannot be recorded"
            assert self._enqueued >= 2, "recorded before TensorRT had set itself up"
            if "capture" in self._engine._plan["broken"]:
                self._engine._logger.log(Logger.ERROR, "operation not permitted when capturing")
                cuda._recording.append(None)
                return False
        if "execute" in self._engine._plan["broken"]:
            self._engine._logger.log(Logger.ERROR, "an illegal memory access was encountered")
            return False
        self._enqueued += 1
        shape = self._shape
        cuda._queue(stream_handle, lambda: self._compute(shape))
        if self.profiler is not None and self.enqueue_emits_profile:
            assert self.profiler._ready, "its base class was not initialised"
            cuda.cudaStreamSynchronize(stream_handle)
            for name, milliseconds in (("reformat", 1.0), ("conv", 3.0)):
                self.profiler.report_layer_time(name, milliseconds)
        return True

    def _compute(self, shape: Any) -> None:
        read, write = self._engine._cuda._read, self._engine._cuda._write
        self._engine._cuda._now_ms += self._engine._plan["delay_ms"]
        count = int(np.prod(shape))
        bytes_ = self._engine._plan["input"] == "UINT8"
        kind = np.uint8 if bytes_ else np.float32
        images = read(self._addresses[self._engine._input], count, kind).reshape(shape)
        if bytes_:
            images = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        boxes, scores, labels = detect(images)
        write(self._addresses["boxes"], boxes)
        write(self._addresses["scores"], scores)
        kind = np.int64 if self._engine._plan["labels"] == "INT64" else np.int32
        write(self._addresses["labels"], labels.astype(kind))


def detect(images: Any) -> tuple[Any, Any, Any]:
    """The detector that every fake plan holds: box k spans k..k+8, its score is a mean."""
    batch, _, height, width = images.shape
    means = images.reshape(batch, 3, CELLS, -1).mean(axis=(1, 3))
    corners = np.arange(CELLS, dtype=np.float32)
    boxes = np.stack([corners, corners, corners + 8, corners + 8], axis=1)
    boxes = boxes.clip(0, min(height, width)).astype(np.float32)
    labels = np.tile(np.arange(CELLS) % 2, (batch, 1))
    return np.tile(boxes, (batch, 1, 1)), means.astype(np.float32), labels.astype(np.int32)
