"""Build a TensorRT plan from an ONNX file, on the machine that will run it."""

import hashlib
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.artifact import verify_artifact
from export.atomic import write_together
from export.backends.cuda_device import describe_machine, load_cuda
from export.backends.tensorrt_backend import TensorRTConfig
from export.backends.tensorrt_library import (
    STRONG_TYPING_PROVEN,
    listen,
    load_plugins,
    load_tensorrt,
    said,
)
from export.errors import ExportError
from export.machine import EngineRecord, Machine, numbers
from export.manifest import Manifest, manifest_bytes, read_manifest

if TYPE_CHECKING:
    import tensorrt

# Precision of an engine -> precision that the sidecar of its graph states.
SOURCES = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-trt", "fp8": "fp8"}
ENGINE = "model.engine"
LAYERS = "model.layers.json"  # TensorRT's own account of what it built
_FP8 = (8, 9)  # the first compute capability with FP8
# How the inspector writes a tensor's type, "Row major linear FP16 format" being one example.
_TYPES = {
    "fp32": r"FP32|Float",
    "fp16": r"FP16|Half",
    "bf16": r"BF16|BFloat16",
    "int8": r"Int8|INT8",
    "fp8": r"FP8",
    "int32": r"Int32|INT32",
    "int64": r"Int64|INT64",
    "bool": r"Bool",
}


def build_engine(
    onnx_path: Path, folder: Path, config: TensorRTConfig, *, trt: Any = None, cuda: Any = None
) -> Path:
    """Write `folder/model.engine`, its sidecar `model.json` and `model.layers.json`.

    The engine file holds the plan's bytes and nothing else, as trtexec and Triton want it. All
    three are written, or none.

    Args:
        onnx_path: the graph in the precision wanted, with its sidecar beside it.
        folder: made if it is not there; not the graph's own.
        config: of the build.
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
    _check_source(onnx_path, folder, manifest, config)
    trt = trt or load_tensorrt(f"Building an engine of {onnx_path}")
    cuda = cuda or load_cuda()
    machine = describe_machine(cuda, trt.__version__, config.device)
    _check_abilities(trt, machine, config)
    cuda.cudaSetDevice(config.device)
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
            f"{onnx_path}: TensorRT {trt.__version__} cannot build it: {said(logger)}"
            f"{_advice(trt, config)}"
        )
    content = bytes(plan)
    facts = _inspect(trt, logger, content, config)
    record = EngineRecord(
        built_on=machine,
        onnx=onnx_path.name,
        onnx_sha256=str(manifest.sha256),
        strongly_typed=not config.weakly_typed,
        flags=_flags(trt, options),
        optimization_level=config.optimization_level,
        workspace_mib=config.workspace_mib,
        portable=config.portable,
        version_compatible=config.version_compatible,
        profile=config.profile if dynamic else None,
        build_seconds=round(seconds, 3),
        **facts.pop("record"),
    )
    return _write(folder, content, facts["layers"], cache, manifest, record, config)


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


def _check_abilities(trt: Any, machine: Machine, config: TensorRTConfig) -> None:
    """Refuse now what this GPU or this TensorRT cannot do."""
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
    trt: Any, builder: "tensorrt.Builder", logger: Any, onnx_path: Path, config: TensorRTConfig
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
            f"{'; '.join(reasons) or said(logger)}"
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
    trt: Any, builder: "tensorrt.Builder", config: TensorRTConfig
) -> tuple["tensorrt.IBuilderConfig", Any]:
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


def _inspect(trt: Any, logger: Any, plan: bytes, config: TensorRTConfig) -> dict[str, Any]:
    """Load the plan once: it must load, be as portable as asked, and hold the precision asked."""
    runtime: tensorrt.Runtime = trt.Runtime(logger)
    if config.version_compatible:
        runtime.engine_host_code_allowed = True
    engine: tensorrt.ICudaEngine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ExportError(f"the engine was built and cannot be loaded: {said(logger)}")
    alone = engine.hardware_compatibility_level == trt.HardwareCompatibilityLevel.NONE
    if config.portable != "none" and alone:
        raise ExportError(
            f"portable: {config.portable} was asked for, and TensorRT {trt.__version__} built an "
            "engine for this GPU alone; build with portable: none"
        )
    inspector: tensorrt.EngineInspector = engine.create_engine_inspector()
    layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    types = layer_types(layers)
    # Only where the inspector's words are understood at all: no claim is made from silence.
    if types and config.precision != "fp32" and not types.get(config.precision):
        raise ExportError(
            f"{config.precision} was asked for, and no layer of the engine is: its layers are "
            f"{dict(types)}; the graph does not carry that precision"
        )
    return {
        "layers": layers.encode(),
        "record": {
            "layers": int(engine.num_layers),
            "layer_types": types,
            "device_memory_bytes": int(engine.device_memory_size_v2),
        },
    }


def layer_types(inspection: str) -> dict[str, int]:
    """Count, per data type, the layers that read or write it, from the inspector's JSON.

    Types that are not stated, or not in words known here, are left out.
    """
    try:
        layers = json.loads(inspection)["Layers"]
    except (ValueError, TypeError, KeyError):
        return {}
    counts: Counter[str] = Counter()
    for layer in layers:
        if not isinstance(layer, dict):  # with less verbosity a layer is its name alone
            continue
        touched = [*layer.get("Inputs", ()), *layer.get("Outputs", ())]
        stated = " ".join(str(one.get("Format/Datatype", "")) for one in touched)
        counts.update(
            name for name, words in _TYPES.items() if re.search(rf"\b({words})\b", stated)
        )
    return dict(sorted(counts.items()))


def _flags(trt: Any, options: "tensorrt.IBuilderConfig") -> tuple[str, ...]:
    """Name the builder flags that are set, TensorRT's own defaults included."""
    members = trt.BuilderFlag.__members__
    return tuple(sorted(name for name, flag in members.items() if options.get_flag(flag)))


def _advice(trt: Any, config: TensorRTConfig) -> str:
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
    folder: Path,
    plan: bytes,
    layers: bytes,
    cache: "tensorrt.ITimingCache | None",
    manifest: Manifest,
    record: EngineRecord,
    config: TensorRTConfig,
) -> Path:
    path = folder / ENGINE
    contents = {path: plan, folder / LAYERS: layers}
    if cache is not None and config.timing_cache is not None:
        stored = bytes(cache.serialize())
        contents[config.timing_cache] = stored
        record = record.model_copy(
            update={"timing_cache_sha256": hashlib.sha256(stored).hexdigest()}
        )
    filled = manifest.model_copy(
        update={
            "backend": "tensorrt",
            "precision": config.precision,
            "artifact": path.name,
            "sha256": hashlib.sha256(plan).hexdigest(),
            "parity": {},  # the graph's says nothing of this engine
            "engine": record,
            "made_by": {**manifest.made_by, "tensorrt": record.built_on.tensorrt},
        }
    )
    contents[path.with_suffix(".json")] = manifest_bytes(filled)
    write_together(contents)
    return path
