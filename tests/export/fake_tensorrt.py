"""A TensorRT of one convolution-free detector: strict about names, order and memory.

It knows only the names that `export` uses, and those that a version lacks are not there; whatever
else is asked of it fails. `tests/export/test_tensorrt_api.py` holds its names to the real bindings.
Its plans compute `boxes`, `scores` and `labels` from the batch in the fake device's memory.
"""

import enum
import json
from types import SimpleNamespace
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


def make(version: str, cuda: Any) -> SimpleNamespace:
    """Return a module like `tensorrt` of that version, beside the fake `cuda`."""
    old = version.startswith("10.")
    flags = "TF32 VERSION_COMPATIBLE" + (" FP16 INT8 FP8" if old else " STRICT_NANS")
    levels = "NONE AMPERE_PLUS" + ("" if old else " SAME_COMPUTE_CAPABILITY")
    module = SimpleNamespace(
        __version__=version,
        BuilderFlag=enum.IntEnum("BuilderFlag", flags, start=0),
        HardwareCompatibilityLevel=enum.IntEnum("HardwareCompatibilityLevel", levels, start=0),
        NetworkDefinitionCreationFlag=enum.IntEnum(
            "NetworkDefinitionCreationFlag",
            {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1} if old else {"STRONGLY_TYPED": 0},
        ),
        MemoryPoolType=enum.Enum("MemoryPoolType", "WORKSPACE"),
        ProfilingVerbosity=enum.Enum("ProfilingVerbosity", "LAYER_NAMES_ONLY DETAILED NONE"),
        LayerInformationFormat=enum.Enum("LayerInformationFormat", "ONELINE JSON"),
        TensorIOMode=enum.Enum("TensorIOMode", "NONE INPUT OUTPUT"),
        DataType=enum.Enum("DataType", "FLOAT HALF INT8 INT32 INT64 BOOL UINT8 FP8"),
        ILogger=Logger,
        OnnxParser=OnnxParser,
        init_libnvinfer_plugins=lambda logger, namespace: logger._plugins(namespace),
    )
    module.Builder = lambda logger: Builder(logger, module, cuda)
    module.Runtime = lambda logger: Runtime(logger, module, cuda)
    return module


def graph(
    *, batch: int = 1, side: int = 32, types: str = "FP16", broken: str = "", **changes: Any
) -> bytes:
    """Return what the fake takes for an ONNX file."""
    content = {
        "inputs": [["images", [batch, 3, side, side]]],
        "outputs": ["boxes", "scores", "labels"],
        "types": types,
        "broken": broken,
        "labels": "INT32",
    }
    return json.dumps(content | changes).encode()


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


class Builder(Strict):
    def __init__(self, logger: Any, trt: Any, cuda: Any) -> None:
        assert isinstance(logger, Logger)
        assert logger._ready, "plugins must be registered before a network is made"
        self._logger, self._trt, self._cuda = logger, trt, cuda

    def create_network(self, flags: int = 0) -> "Network":
        known = sum(1 << int(flag) for flag in self._trt.NetworkDefinitionCreationFlag)
        assert flags & ~known == 0, f"unknown creation flags {flags}"
        strong = 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return Network(bool(flags & strong) or not self._trt.__version__.startswith("10."))

    def create_builder_config(self) -> "BuilderConfig":
        return BuilderConfig(self._trt)

    def create_optimization_profile(self) -> "Profile":
        return Profile()

    def build_serialized_network(self, network: "Network", config: "BuilderConfig") -> Any:
        assert network._graph is not None, "build before parse"
        if config._cache is not None:
            config._cache._entries.append("tactic")
        given = network._graph
        flags = {flag.name for flag in config._flags}
        if network._strong and flags & {"FP16", "INT8", "FP8"}:
            self._logger.log(Logger.ERROR, "precision flags on a strongly typed network")
            return None
        dynamic = [name for name, shape in given["inputs"] if -1 in shape]
        if dynamic and not config._profiles:
            self._logger.log(Logger.ERROR, f"{dynamic[0]}: no optimization profile")
            return None
        if "build" in given["broken"]:
            self._logger.log(Logger.ERROR, "Could not find any implementation for node conv")
            return None
        plan = {
            **given,
            "version": self._trt.__version__,
            "sm": self._cuda._sm,
            "strong": network._strong,
            "flags": sorted(flags),
            "profile": config._profiles[0]._shapes if config._profiles else None,
            "level": "NONE"
            if "portable" in given["broken"]
            else config.hardware_compatibility_level.name,
            "detailed": config.profiling_verbosity == self._trt.ProfilingVerbosity.DETAILED,
        }
        return HostMemory(b"plan" + json.dumps(plan).encode())


class HostMemory(Strict):
    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def nbytes(self) -> int:
        return len(self._content)

    def __bytes__(self) -> bytes:
        return self._content


class Network(Strict):
    def __init__(self, strong: bool) -> None:
        self._strong = strong
        self._graph: Any = None

    @property
    def num_inputs(self) -> int:
        return len(self._graph["inputs"])

    @property
    def num_outputs(self) -> int:
        return len(self._graph["outputs"])

    def get_input(self, index: int) -> Any:
        name, shape = self._graph["inputs"][index]
        return SimpleNamespace(name=name, shape=tuple(shape))

    def get_output(self, index: int) -> Any:
        return SimpleNamespace(name=self._graph["outputs"][index])


class OnnxParser(Strict):
    def __init__(self, network: Network, logger: Any) -> None:
        self._network, self._errors, self._parsed = network, 0, False
        assert isinstance(logger, Logger)

    def parse(self, model: bytes) -> bool:
        assert not self._parsed
        content = json.loads(model)
        if "parse" in content["broken"]:
            self._errors = 1
            return False
        self._network._graph, self._parsed = content, True
        return True

    @property
    def num_errors(self) -> int:
        return self._errors

    def get_error(self, index: int) -> Any:
        assert index < self._errors
        return SimpleNamespace(
            desc=lambda: "no importer", node_name=lambda: "nms", node_operator=lambda: "Compress"
        )

    def get_used_vc_plugin_libraries(self) -> list[str]:
        assert self._parsed
        return ["libplugins_vc.so"]


class Profile(Strict):
    def __init__(self) -> None:
        self._shapes: Any = None

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert input
        assert len(min) == len(opt) == len(max)
        if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError("shapes out of order")
        self._shapes = [list(min), list(opt), list(max)]


class TimingCache(Strict):
    def __init__(self, content: bytes) -> None:
        self._entries = content.decode().split() if content else []

    def serialize(self) -> HostMemory:
        return HostMemory(" ".join(self._entries).encode())


class BuilderConfig(Strict):
    _settable = frozenset(
        {
            "builder_optimization_level",
            "profiling_verbosity",
            "avg_timing_iterations",
            "hardware_compatibility_level",
            "plugins_to_serialize",
        }
    )

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self._flags = {trt.BuilderFlag.TF32}  # as in TensorRT, on by default
        self._profiles: list[Profile] = []
        self._cache: TimingCache | None = None
        self._limits: dict[Any, int] = {}
        self.builder_optimization_level = 3
        self.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.avg_timing_iterations = 1
        self.hardware_compatibility_level = trt.HardwareCompatibilityLevel.NONE
        self.plugins_to_serialize: list[str] = []

    def set_flag(self, flag: Any) -> None:
        self._flags.add(self._trt.BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(self._trt.BuilderFlag(flag))

    def get_flag(self, flag: Any) -> bool:
        return self._trt.BuilderFlag(flag) in self._flags

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._limits[self._trt.MemoryPoolType(pool)] = pool_size

    def add_optimization_profile(self, profile: Profile) -> int:
        assert profile._shapes, "an empty profile"
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return "mismatch" not in cache._entries or ignore_mismatch


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
        return self._trt.DataType[self._plan["labels"] if name == "labels" else "FLOAT"]

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
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        assert format == self._engine._trt.LayerInformationFormat.JSON
        kind: str = self._engine._plan["types"]
        if not self._engine._plan["detailed"]:
            return '{"Layers": ["conv", "head"]}'
        tensor = {"Name": "features", "Format/Datatype": f"Row major linear {kind} format"}
        layers = [{"Name": "conv", "Inputs": [tensor], "Outputs": [tensor]}, {"Name": "constant"}]
        return json.dumps({"Layers": layers})


class Context(Strict):
    def __init__(self, engine: Engine) -> None:
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
        return True

    def _compute(self, shape: Any) -> None:
        read, write = self._engine._cuda._read, self._engine._cuda._write
        count = int(np.prod(shape))
        images = read(self._addresses[self._engine._input], count, np.float32).reshape(shape)
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
