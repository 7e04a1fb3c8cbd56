"""Build a TensorRT plan from an ONNX file, on the machine that will run it."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from export.artifact.machine import EngineRecord, Machine, numbers
from export.artifact.manifest import Manifest, manifest_bytes, read_manifest
from export.artifact.sidecar import verify_artifact, verify_numbers
from export.atomic import write_together
from export.backends.tensorrt.cuda import CudaDevice, describe_machine, load_cuda
from export.backends.tensorrt.graphs import SOURCES
from export.backends.tensorrt.library import (
    STRONG_TYPING_PROVEN,
    last_errors,
    listen,
    load_plugins,
    load_tensorrt,
)
from export.backends.tensorrt.settings import TensorRTConfig
from export.backends.tensorrt.trial import Trial, try_out
from export.errors import ExportError

if TYPE_CHECKING:
    import tensorrt

ENGINE = "model.engine"
LAYERS = "model.layers.json"  # TensorRT's description of the engine's layers
_FP8 = (8, 9)  # the first compute capability with FP8


@dataclass(frozen=True)
class _Built:
    """One plan, and how it was built."""

    plan: bytes
    seconds: float
    flags: tuple[str, ...]
    dynamic: bool  # whether the batch is open
    cache: bytes | None  # the timing cache afterwards


def build_engine(
    onnx_path: Path,
    folder: Path,
    config: TensorRTConfig,
    *,
    trt: ModuleType | None = None,
    cuda: ModuleType | None = None,
) -> Path:
    """Write `folder/model.engine`, its sidecar `model.json` and `model.layers.json`.

    The engine file holds only the plan's bytes, as trtexec and Triton expect. All three files are
    written, or none. With `config.builds` the graph is built so many times, and of the
    engines the fastest is kept.

    Args:
        onnx_path: the graph in the precision wanted, with its sidecar beside it.
        folder: output folder, created if missing; not the graph's own.
        config: build settings.
        trt: module `tensorrt`; None imports it.
        cuda: cuda-python's runtime module; None imports it.

    Raises:
        ExportError: the graph is not what its sidecar says, has another precision than asked for,
            or cannot be built; or the GPU or this TensorRT lacks what was asked for.
        MissingDependencyError: TensorRT or cuda-python is not installed.
        ToolkitError: the files cannot be written.
    """
    manifest = read_manifest(onnx_path.with_suffix(".json"))
    verify_artifact(onnx_path, manifest)
    verify_numbers(onnx_path, onnx_path.read_bytes())
    _check_source(onnx_path, folder, manifest, config)
    purpose = f"Building an engine of {onnx_path}"
    trt, cuda, machine = check_machine(purpose, config, trt=trt, cuda=cuda)
    cuda.cudaSetDevice(config.device)
    built = [_build_once(trt, onnx_path, config) for _ in range(config.builds)]
    plans = [one.plan for one in built]
    path = folder / ENGINE
    trial = try_out(
        trt, lambda: CudaDevice(cuda, config.device), path, plans, manifest.input, config
    )
    chosen = built[trial.kept]
    record = EngineRecord(
        built_on=machine,
        onnx=onnx_path.name,
        onnx_sha256=str(manifest.sha256),
        strongly_typed=not config.weakly_typed,
        flags=chosen.flags,
        optimization_level=config.optimization_level,
        workspace_mib=config.workspace_mib,
        portable=config.portable,
        version_compatible=config.version_compatible,
        profile=config.profile if chosen.dynamic else None,
        build_seconds=round(chosen.seconds, 3),
        layers=trial.layers,
        device_memory_bytes=trial.device_memory_bytes,
        builds=trial.times,
        not_timed=trial.not_timed,
    )
    return _write(path, chosen, trial, manifest, record, config)


def _build_once(trt: ModuleType, onnx_path: Path, config: TensorRTConfig) -> _Built:
    """Build one plan; only the timing cache's file is shared between builds."""
    logger = listen(trt)
    load_plugins(trt, logger)
    builder: tensorrt.Builder = trt.Builder(logger)
    network, libraries = _parse(trt, builder, logger, onnx_path, config)
    options, cache = _options(trt, builder, config)
    if config.version_compatible and libraries:
        options.plugins_to_serialize = libraries
    dynamic = _add_profile(builder, options, network, config, onnx_path)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, options)
    seconds = time.perf_counter() - started
    if plan is None:
        raise ExportError(
            f"{onnx_path}: TensorRT {trt.__version__} cannot build it: {last_errors(logger)}"
            f"{_advice(trt, config)}"
        )
    flags = _flags(trt, options)
    kept = None if cache is None else bytes(cache.serialize())
    return _Built(bytes(plan), seconds, flags, dynamic, kept)


def check_machine(
    purpose: str,
    config: TensorRTConfig,
    *,
    trt: ModuleType | None = None,
    cuda: ModuleType | None = None,
) -> tuple[ModuleType, ModuleType, Machine]:
    """Return TensorRT, CUDA and the machine, once they can build what `config` asks for.

    Raises:
        ExportError: the GPU or this TensorRT lacks what was asked for.
        MissingDependencyError: TensorRT or cuda-python is not installed.
    """
    trt = trt or load_tensorrt(purpose)
    cuda = cuda or load_cuda()
    machine = describe_machine(cuda, trt.__version__, config.device)
    _check_abilities(trt, machine, config)
    return trt, cuda, machine


def _check_source(
    onnx_path: Path, folder: Path, manifest: Manifest, config: TensorRTConfig
) -> None:
    """Refuse a graph of another precision, or one made for another backend."""
    if manifest.precision == "int8":
        raise ExportError(
            f"{onnx_path}: is quantised for CPUs (unsigned activations), which TensorRT does not "
            "take; give it the graph quantised for TensorRT (int8-trt)"
        )
    allowed = {SOURCES[config.precision]}
    if config.weakly_typed and config.precision == "fp16":
        allowed.add("fp32")  # there the builder's flag makes it FP16, not the graph
    if manifest.precision not in allowed:
        raise ExportError(
            f"{onnx_path}: is {manifest.precision}, and {config.precision} was asked for; TensorRT "
            f"takes the precision from the graph: give it the {SOURCES[config.precision]} one"
        )
    if (folder / "model.json").resolve() == onnx_path.with_suffix(".json").resolve():
        raise ExportError(f"{folder}: holds the ONNX file itself; choose another folder")


def _check_abilities(trt: ModuleType, machine: Machine, config: TensorRTConfig) -> None:
    """Raise for settings that this GPU or this TensorRT does not support."""
    if config.precision == "fp8" and numbers(machine.compute_capability) < _FP8:
        raise ExportError(
            f"fp8 needs a GPU of SM 8.9 or later, and {machine.gpu} has SM "
            f"{machine.compute_capability}; build with --precision fp16 or int8"
        )
    if config.weakly_typed and not hasattr(trt.BuilderFlag, "FP16"):
        raise ExportError(
            f"TensorRT {machine.tensorrt} builds strongly typed networks only; leave out "
            "weakly_typed"
        )
    if config.portable == "same_sm" and not hasattr(
        trt.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY"
    ):
        raise ExportError(
            f"TensorRT {machine.tensorrt} does not know portable: same_sm; choose ampere_plus "
            "or none"
        )


def _parse(
    trt: ModuleType,
    builder: "tensorrt.Builder",
    logger: "tensorrt.ILogger",
    onnx_path: Path,
    config: TensorRTConfig,
) -> tuple["tensorrt.INetworkDefinition", list[str]]:
    """Return the network, and the plugin libraries it uses."""
    strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network: tensorrt.INetworkDefinition = builder.create_network(
        0 if config.weakly_typed else strong
    )
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        reasons = []
        for index in range(parser.num_errors):
            error: tensorrt.ParserError = parser.get_error(index)
            reasons.append(f"{error.node_operator()} {error.node_name()}: {error.desc()}".strip())
        raise ExportError(
            f"{onnx_path}: TensorRT {trt.__version__} cannot read it: "
            f"{'; '.join(reasons) or last_errors(logger)}"
        )
    outputs = {network.get_output(index).name for index in range(network.num_outputs)}
    if not {"boxes", "scores", "labels"} <= outputs:
        raise ExportError(
            f"{onnx_path}: gives {sorted(outputs)}, and boxes, scores and labels were expected; "
            "export the model again"
        )
    libraries: list[str] = list(parser.get_used_vc_plugin_libraries())
    return network, libraries


def _options(
    trt: ModuleType, builder: "tensorrt.Builder", config: TensorRTConfig
) -> tuple["tensorrt.IBuilderConfig", "tensorrt.ITimingCache | None"]:
    """Return the builder's options and the timing cache, which must live until the build ends."""
    options: tensorrt.IBuilderConfig = builder.create_builder_config()
    if config.workspace_mib is not None:
        options.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_mib << 20)
    options.builder_optimization_level = config.optimization_level
    options.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if config.timing_iterations is not None:
        options.avg_timing_iterations = config.timing_iterations
    if not config.tf32:
        options.clear_flag(trt.BuilderFlag.TF32)  # on by default
    if config.version_compatible:
        options.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if config.portable == "ampere_plus":
        options.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif config.portable == "same_sm":
        options.hardware_compatibility_level = (
            trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        )
    if config.weakly_typed and config.precision != "fp32":
        options.set_flag(trt.BuilderFlag.FP16)
        if config.precision == "int8":
            options.set_flag(trt.BuilderFlag.INT8)
        elif config.precision == "fp8":
            options.set_flag(trt.BuilderFlag.FP8)
    if config.timing_cache is None:
        return options, None
    try:
        stored = config.timing_cache.read_bytes()
    except FileNotFoundError:
        stored = b""
    cache: tensorrt.ITimingCache = options.create_timing_cache(stored)
    if not options.set_timing_cache(cache, False):
        raise ExportError(
            f"{config.timing_cache}: this timing cache is of another TensorRT or GPU; name "
            "another file, or remove it"
        )
    return options, cache


def _add_profile(
    builder: "tensorrt.Builder",
    options: "tensorrt.IBuilderConfig",
    network: "tensorrt.INetworkDefinition",
    config: TensorRTConfig,
    onnx_path: Path,
) -> bool:
    """Add the batch profile where an input needs one; say whether one does."""
    dynamic = []
    for index in range(network.num_inputs):
        tensor: tensorrt.ITensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 in shape[1:]:
            raise ExportError(
                f"{onnx_path}: input {tensor.name} {shape} leaves more open than the batch; "
                "export it with a fixed height and width"
            )
        if shape[0] == -1:
            dynamic.append((tensor.name, shape[1:]))
    if dynamic:
        profile: tensorrt.IOptimizationProfile = builder.create_optimization_profile()
        sizes = (config.profile.min, config.profile.opt, config.profile.max)
        for name, rest in dynamic:
            profile.set_shape(name, *[(size, *rest) for size in sizes])
        options.add_optimization_profile(profile)
    return bool(dynamic)


def _flags(trt: ModuleType, options: "tensorrt.IBuilderConfig") -> tuple[str, ...]:
    """Name the builder flags that are set, TensorRT's own defaults included."""
    members = trt.BuilderFlag.__members__
    return tuple(sorted(name for name, flag in members.items() if options.get_flag(flag)))


def _advice(trt: ModuleType, config: TensorRTConfig) -> str:
    version = numbers(trt.__version__)
    if not config.weakly_typed and version < STRONG_TYPING_PROVEN:
        return (
            f". Strong typing is young in TensorRT {trt.__version__}: --weakly-typed builds with "
            "the older rules"
        )
    if config.workspace_mib is not None:
        return f". {config.workspace_mib} MiB of workspace may be too little"
    return ""


def _write(
    path: Path,
    built: _Built,
    trial: Trial,
    manifest: Manifest,
    record: EngineRecord,
    config: TensorRTConfig,
) -> Path:
    contents = {path: built.plan, path.with_name(LAYERS): trial.inspection.encode()}
    if built.cache is not None and config.timing_cache is not None:
        contents[config.timing_cache] = built.cache
        record = record.model_copy(
            update={"timing_cache_sha256": hashlib.sha256(built.cache).hexdigest()}
        )
    filled = manifest.model_copy(
        update={
            "backend": "tensorrt",
            "precision": config.precision,
            "artifact": path.name,
            "sha256": hashlib.sha256(built.plan).hexdigest(),
            "parity": {},  # that of the graph does not apply
            "certificate": trial.certificate,
            "engine": record,
            "made_by": {**manifest.made_by, "tensorrt": record.built_on.tensorrt},
        }
    )
    contents[path.with_suffix(".json")] = manifest_bytes(filled)
    write_together(contents)
    return path
