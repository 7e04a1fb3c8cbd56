"""The texts of a bundle: its README, the script that builds engines, Triton's configuration."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import NOTICE, Manifest
from export.bundles.contract import contract
from export.errors import as_markdown, counted

_TRITON_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8", "int32": "TYPE_INT32"}
_NMS_IN = {"host": "client", "graph": "graph", "matrix": "graph", "none": "not needed"}
_MAX_BATCH = 16  # of a graph that takes any


def build_script(lines: Sequence[str]) -> str:
    """Return the shell script that builds a bundle's artifacts, given the backends' lines."""
    head = [
        "#!/bin/sh",
        "# Build the TensorRT engines of this bundle on this machine; verify.py then checks them.",
        'set -eu\ncd "$(dirname "$0")"',
    ]
    return "\n".join([*head, *lines]) + "\n"


def triton_config(
    name: str,
    manifest: Manifest,
    images: NDArray[np.generic],
    outputs: Mapping[str, NDArray[np.generic]],
    backend: str,
    options: Sequence[str] = (),
) -> str:
    """Return Triton's `config.pbtxt`.

    Args:
        name: the model's name in the repository.
        manifest: the artifact's sidecar.
        images: a batch of its input, for type and shape.
        outputs: a batch of its outputs by name, for types and shapes.
        backend: Triton's name of the runtime.
        options: further lines.
    """
    record = manifest.engine
    batched = manifest.input.dynamic_batch
    largest = record.profile.max if record is not None and record.profile else _MAX_BATCH
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
    return "\n".join([*lines, *options]) + "\n"


def _tensor(name: str, values: NDArray[np.generic], batched: bool) -> str:
    shape = values.shape[1:] if batched else values.shape
    kind = _TRITON_TYPES[np.dtype(values.dtype).name]
    dims = ", ".join(map(str, shape))
    return f'  {{ name: "{name}", data_type: {kind}, dims: [ {dims} ] }}'


def readme(
    name: str,
    artifacts: Sequence[tuple[str, Manifest, str]],
    packages: Sequence[str],
    wheel: str | None,
    requirements: Mapping[str, Sequence[str]],
) -> str:
    """Return the README of a bundle.

    Args:
        name: the model's name.
        artifacts: name, sidecar and the machines it runs on, of each.
        packages: packages that `verify.py` needs besides numpy, per backend.
        wheel: file in the bundle that installs slimdet; None where it could not be packed.
        requirements: runtime in words -> what pip installs to run artifacts with it.
    """
    first = artifacts[0][1]
    rows = "\n".join(
        f"| `{own}` | {manifest.backend} | {manifest.precision} | {manifest.input.format} "
        f"| {_NMS_IN[manifest.nms.mode]} | {as_markdown(machines)} |"
        for own, manifest, machines in artifacts
    )
    return f"""# {as_markdown(name)}: detector bundle

{counted(len(first.classes), "class", "classes")} (`labels.txt`), \
family {as_markdown(first.family)}, {first.parameters / 1e6:.1f} million parameters.

## Check it on this device

```sh
python verify.py            # needs numpy and {", or ".join(packages)}
./build_engines.sh          # builds TensorRT engines with trtexec; then verify again
```

`verify.py` compares hashes, then runs every model on `golden/input.npy` and expects the boxes of
`bundle.json` (drawn for the first model in `golden/expected.png`), alone, twice, and at both ends
of a batch. Exit codes: 0 as expected, 4 nothing could be checked here, 6 something differs.

## See it on your own pictures

{_predict_section(wheel, requirements)}

## Models

| model | backend | precision | input | NMS in | made for |
|---|---|---|---|---|---|
{rows}

The sidecar `model.json` beside each describes it in full. Engines run on the machine they were
built for; ONNX files run everywhere. `int8` is for CPUs; TensorRT builds from `int8-trt` and `fp8`.

{contract({own: manifest for own, manifest, _ in artifacts})}
## Triton

`triton/` is a model repository: `tritonserver --model-repository=triton`.
{_licence_section([manifest for _, manifest, _ in artifacts])}"""


def _licence_section(artifacts: Sequence[Manifest]) -> str:
    """Return the notices of packages under other licences; "" where there is none."""
    notices = dict.fromkeys(one.made_by[NOTICE] for one in artifacts if NOTICE in one.made_by)
    if not notices:
        return ""
    return "\n## Licence\n\n" + "\n\n".join(map(as_markdown, notices)) + "\n"


def _predict_section(wheel: str | None, requirements: Mapping[str, Sequence[str]]) -> str:
    """Say how to install slimdet from the bundle itself, with a line per runtime, and predict."""
    if wheel is None:
        return (
            "The bundle was made by a slimdet that is not installed but runs from its folder, so\n"
            "no wheel of it lies here; run `python -m export.predict` in that folder."
        )
    lines = []
    for runtime, packages in requirements.items():
        packed = "".join(f" '{package}'" for package in packages)
        lines.append(f"pip install ./{wheel}{packed}   # {runtime}")
    commands = "\n".join([*lines, "slimdet predict . photographs/ --draw --out seen"])
    return (
        f"One of the lines, for the runtime of this device:\n\n```sh\n{commands}\n```\n\n"
        "The wheel is the slimdet that made this bundle; on a package index the name may\n"
        "belong to another project."
    )
