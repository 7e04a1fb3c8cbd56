"""The texts of a bundle: its README, the script that builds engines, Triton's configuration."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import MADE_FOR_TENSORRT, Manifest

_TRITON_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8", "int32": "TYPE_INT32"}
_MAX_BATCH = 16  # of a graph that takes any
# Graphs that TensorRT takes as they are; "int8" is quantised for CPUs.
_FOR_TENSORRT = frozenset({"fp32", "fp16"}) | MADE_FOR_TENSORRT
# Older GPUs still get the other engines.
_ELSE_FP8 = ' || echo "no fp8 engine was built: it needs a GPU of SM 8.9 or later" >&2'
_HARDWARE = {"same_sm": "sameComputeCapability", "ampere_plus": "ampere+"}


def trtexec_line(file: str, manifest: Manifest) -> str:
    """Return the command that builds the engine of the ONNX file `file`, as `export.build` would.

    For an engine's manifest it repeats that engine's settings.
    """
    spec, record = manifest.input, manifest.engine
    rest = f"{spec.height}x{spec.width}"
    shape = f"{rest}x3" if _is_uint8(manifest) else f"3x{rest}"
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


def build_script(files: Mapping[str, Manifest]) -> str:
    """Return a shell script with one trtexec line per ONNX file that TensorRT takes."""
    lines = [
        "#!/bin/sh",
        "# Build the TensorRT engines of this bundle on this machine; verify.py then checks them.",
        "# On TensorRT 11 --stronglyTyped is always on, and naming it does nothing.",
        'set -eu\ncd "$(dirname "$0")"',
    ]
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
    return "\n".join([*lines, *built, *engines]) + "\n"


def triton_config(
    name: str,
    manifest: Manifest,
    images: NDArray[Any],
    outputs: Mapping[str, NDArray[Any]],
) -> str:
    """Return Triton's `config.pbtxt`.

    Args:
        name: of the model in the repository.
        manifest: of the artifact.
        images: a batch of its input, for type and shape.
        outputs: a batch of its outputs by name, likewise.
    """
    record = manifest.engine
    batched = manifest.input.dynamic_batch
    largest = record.profile.max if record is not None and record.profile else _MAX_BATCH
    backend = "tensorrt" if manifest.backend == "tensorrt" else "onnxruntime"
    lines = [
        f"name: {json.dumps(name)}",
        f'backend: "{backend}"',
        f"max_batch_size: {largest if batched else 0}",
        "input [",
        _tensor(manifest.input.name, images, batched),
        "]",
        "output [",
        ",\n".join(_tensor(key, value, batched) for key, value in outputs.items()),
        "]",
    ]
    if batched:
        lines.append("dynamic_batching { }")
    if manifest.precision == "fp8" and backend == "onnxruntime":
        # ONNX Runtime's full optimiser breaks FP8 graphs; -1 is the basic one
        lines.append("optimization { graph { level: -1 } }")
    return "\n".join(lines) + "\n"


def _tensor(name: str, values: NDArray[Any], batched: bool) -> str:
    shape = values.shape[1:] if batched else values.shape
    kind = _TRITON_TYPES[np.dtype(values.dtype).name]
    dims = ", ".join(map(str, shape))
    return f'  {{ name: "{name}", data_type: {kind}, dims: [ {dims} ] }}'


def _is_uint8(manifest: Manifest) -> bool:
    return manifest.input.model_dump().get("format") == "uint8"


def readme(name: str, artifacts: Sequence[tuple[str, Manifest]]) -> str:
    """Return the README of a bundle."""
    first = artifacts[0][1]
    spec, nms = first.input, first.nms
    rows = "\n".join(
        f"| `{own}` | {manifest.backend} | {manifest.precision} | {_where(manifest)} |"
        for own, manifest in artifacts
    )
    taken = (
        f"uint8 RGB, (B, {spec.height}, {spec.width}, 3), 0..255"
        if _is_uint8(first)
        else f"float32 RGB, (B, 3, {spec.height}, {spec.width}), pixel / 255"
    )
    after = (
        f"Then greedy NMS per class at IoU {nms.iou:g}, at most {nms.max_detections} per picture."
        if nms.mode == "host"
        else f"No NMS is needed after it; at most {nms.max_detections} per picture."
    )
    return f"""# {_plain(name)}: detector bundle

{len(first.classes)} classes (`labels.txt`), family {_plain(first.family)}, \
{first.parameters / 1e6:.1f} million parameters.

## Check it on this device

```sh
python verify.py            # needs numpy and onnxruntime, or tensorrt and cuda-python
./build_engines.sh          # builds TensorRT engines with trtexec; then verify again
```

`verify.py` compares hashes, then runs every model on `golden/input.npy` and expects the boxes of
`bundle.json` (drawn for the first model in `golden/expected.png`), alone, twice, and at both ends
of a batch. Exit codes: 0 as expected, 4 nothing could be checked here, 6 something differs.

## See it on your own pictures

```sh
pip install 'slimdet[onnxruntime]'
slimdet predict . photographs/ --draw --out seen
```

## Models

| model | backend | precision | made for |
|---|---|---|---|
{rows}

The sidecar `model.json` beside each says all about it. Engines run on the machine they were built
for; ONNX files run everywhere. `int8` is for CPUs, `int8-trt` and `fp8` are the input of TensorRT.

## Input and output

- Input `{_plain(spec.name)}`: {taken}. Scale the photograph to fit {spec.width} x {spec.height}, \
keep its aspect, lay it at
  the top left, fill the rest with grey {spec.fill}. Mean and standard deviation are in the graph.
- Output `boxes` (B, P, 4) xyxy in input pixels, `scores` (B, P), `labels` (B, P) from 0; a score
  of -1 is padding. Keep scores above {first.score_threshold:g} (`thresholds.json`; for measuring \
AP above {first.evaluation_score_threshold:g}).
  {after} Divide boxes by the scale to return to the photograph.

## Triton

`triton/` is a model repository: `tritonserver --model-repository=triton`.
"""


def _where(manifest: Manifest) -> str:
    if manifest.engine is None:
        builders = {"int8-trt": "TensorRT's builder", "fp8": "TensorRT's builder, SM 8.9 and later"}
        return builders.get(manifest.precision, "any machine")
    return _plain(str(manifest.engine.built_on))


def _plain(text: str) -> str:
    """Return text that Markdown takes for text."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return text
