"""The trtexec lines that build a bundle's engines where `export` is not installed."""

from collections.abc import Mapping

from export.artifact.manifest import MADE_FOR_TENSORRT, Manifest

_MAX_BATCH = 16  # for a graph with a dynamic batch
# Precisions of graphs that TensorRT builds; "int8" is quantised for CPUs.
_FOR_TENSORRT = frozenset({"fp32", "fp16"}) | MADE_FOR_TENSORRT
# Older GPUs still build the other engines.
_ELSE_FP8 = ' || echo "no fp8 engine was built: it needs a GPU of SM 8.9 or later" >&2'
_HARDWARE = {"same_sm": "sameComputeCapability", "ampere_plus": "ampere+"}


def trtexec_line(file: str, manifest: Manifest) -> str:
    """Return the command that builds the engine of the ONNX file `file`, as `export.build` would.

    For an engine's manifest it repeats that engine's settings.
    """
    spec, record = manifest.input, manifest.engine
    rest = f"{spec.height}x{spec.width}"
    shape = f"{rest}x3" if spec.format == "uint8" else f"3x{rest}"
    folder = file.rpartition("/")[0] or "."
    parts = ["trtexec", f"--onnx={file}", f"--saveEngine={folder}/model.engine"]
    parts += ["--stronglyTyped", "--noTF32"] if record is None else _as_built(manifest)
    if spec.dynamic_batch:
        sizes = (1, 1, _MAX_BATCH)
        if record is not None and record.profile is not None:
            sizes = (record.profile.min, record.profile.opt, record.profile.max)
        for word, size in zip(("min", "opt", "max"), sizes, strict=True):
            parts.append(f"--{word}Shapes={spec.name}:{size}x{shape}")
    parts += ["--profilingVerbosity=detailed", "--skipInference"]
    return " ".join(parts)


def _as_built(manifest: Manifest) -> list[str]:
    record = manifest.engine
    assert record is not None  # asked by the caller
    parts = ["--stronglyTyped"] if record.strongly_typed else []
    parts += [f"--{flag.lower()}" for flag in ("FP16", "INT8", "FP8") if flag in record.flags]
    if "TF32" not in record.flags:
        parts.append("--noTF32")
    parts.append(f"--builderOptimizationLevel={record.optimization_level}")
    if record.workspace_mib is not None:
        parts.append(f"--memPoolSize=workspace:{record.workspace_mib}M")
    if record.version_compatible:
        parts.append("--versionCompatible")
    if record.portable != "none":
        parts.append(f"--hardwareCompatibilityLevel={_HARDWARE[record.portable]}")
    return parts


def script_lines(files: Mapping[str, Manifest]) -> list[str]:
    """Return one trtexec line per ONNX file that TensorRT takes, and how engines there were built.

    Args:
        files: path inside the bundle -> sidecar.
    """
    built = [
        trtexec_line(file, manifest) + (_ELSE_FP8 if manifest.precision == "fp8" else "")
        for file, manifest in files.items()
        if file.endswith(".onnx") and manifest.precision in _FOR_TENSORRT
    ]
    engines = [
        f"# {file} was built like this, from its {manifest.engine.onnx}:\n"
        f"# {trtexec_line(manifest.engine.onnx, manifest)}"
        for file, manifest in files.items()
        if manifest.engine is not None
    ]
    if not built:
        built = ["# No ONNX file here is for TensorRT."]
    about = "# On TensorRT 11 --stronglyTyped is always on, and naming it does nothing."
    return [about, *built, *engines]
