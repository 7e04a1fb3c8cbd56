"""A TensorRT of one convolution-free detector: strict about names, order and memory.

It knows only the names that `export` uses, and those that a version lacks are not there; whatever
else is asked of it fails. `test_api.py` beside it holds its names to the real bindings.
Its plans compute `boxes`, `scores` and `labels` from the batch in the fake device's memory.
"""

import enum
import json
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.export.backends.tensorrt.fake_tensorrt_engine import (
    Logger,
    PrintingLogger,
    Profiler,
    Runtime,
    Strict,
)

_NUMPY = {"FLOAT": np.float32, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8}


def make(version: str, cuda: Any) -> ModuleType:
    """Return a module like `tensorrt` of that version, beside the fake `cuda`."""
    old = version.startswith("10.")
    flags = "TF32 VERSION_COMPATIBLE" + (" FP16 INT8 FP8" if old else " STRICT_NANS")
    levels = "NONE AMPERE_PLUS" + ("" if old else " SAME_COMPUTE_CAPABILITY")
    module = ModuleType("tensorrt")
    vars(module).update(
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
        IProfiler=Profiler,
        Logger=PrintingLogger,
        nptype=lambda kind: _NUMPY[kind.name],
        OnnxParser=OnnxParser,
        init_libnvinfer_plugins=lambda logger, namespace: logger._plugins(namespace),
    )
    vars(module).update(
        Builder=lambda logger: Builder(logger, module, cuda),
        Runtime=lambda logger: Runtime(logger, module, cuda),
    )
    return module


def graph(
    *,
    batch: int = 1,
    side: int = 32,
    types: str = "FP16",
    broken: str = "",
    input: str = "FLOAT",
    **changes: Any,
) -> bytes:
    """Return what the fake takes for an ONNX file; `first` is the operator that takes the input."""
    picture = [side, side, 3] if input == "UINT8" else [3, side, side]
    content = {
        "inputs": [["images", [batch, *picture]]],
        "input": input,
        "first": "Cast",
        "delays_ms": [1],  # how long a pass takes, by build
        "outputs": ["boxes", "scores", "labels"],
        "types": types,
        "broken": broken,
        "labels": "INT32",
    }
    return json.dumps(content | changes).encode()


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
        delays = given["delays_ms"]
        delay = delays[self._cuda._builds % len(delays)]
        self._cuda._builds += 1
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
            "delay_ms": delay,
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
        # TensorRT's bytes of pictures go into a cast to float and nowhere else
        misused = content["input"] == "UINT8" and content["first"] != "Cast"
        if "parse" in content["broken"] or misused:
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
