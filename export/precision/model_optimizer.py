"""Run NVIDIA Model Optimizer in its own process.

It patches functions of ONNX Runtime's quantiser, which would affect ours, and prints to both output
streams. `python -m export.precision.model_optimizer FOLDER` is that process; `fp8_graph` starts it.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import InputSpec
from export.errors import ExportError, MissingDependencyError
from export.optional import require
from export.pictures.images import Images, to_input

if TYPE_CHECKING:
    import onnx

PACKAGE = "nvidia-modelopt"
_SOURCE, _TARGET, _PICTURES, _REQUEST = "source.onnx", "fp8.onnx", "pictures.npy", "request.json"
_ABSENT = 4  # exit code of the process: one of its packages is not installed


def require_model_optimizer() -> str:
    """Return Model Optimizer's version, without loading it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if importlib.util.find_spec("modelopt") is None:
        raise MissingDependencyError(
            f"FP8 needs NVIDIA Model Optimizer (Python package {PACKAGE}), which is not installed. "
            "Install it with: pip install 'slimdet[fp8]'"
        )
    return metadata.version(PACKAGE)


def fp8_graph(
    model: "onnx.ModelProto",
    canvases: Sequence[NDArray[np.uint8]],
    spec: InputSpec,
    nodes: Sequence[str],
) -> "onnx.ModelProto":
    """Return `model` (`onnx.ModelProto`) with E4M3 Q/DQ pairs at the inputs of `nodes`.

    Model Optimizer skips nodes that FP8 kernels do not support: convolutions with fewer than 17
    channels or large kernels. All other nodes stay FP32. Ranges are the largest absolute values,
    the only FP8 method of Model Optimizer.

    Raises:
        ExportError: Model Optimizer failed; the message ends with its output.
        MissingDependencyError: it, or a package it needs, is not installed.
    """
    onnx = require("onnx", extra="train", purpose="FP8")
    version = require_model_optimizer()
    with tempfile.TemporaryDirectory(prefix="fp8") as scratch:
        folder = Path(scratch)
        onnx.save(model, str(folder / _SOURCE))
        np.save(folder / _PICTURES, np.stack(canvases), allow_pickle=False)
        request = {"input": spec.model_dump(mode="json"), "nodes": list(nodes)}
        (folder / _REQUEST).write_text(json.dumps(request), encoding="utf-8")
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "export.precision.model_optimizer", scratch],
            env={**os.environ, "PYTHONPATH": path},
            cwd=scratch,  # which Python puts before PYTHONPATH
            capture_output=True,
            text=True,
        )
        words = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        if done.returncode == _ABSENT:
            raise MissingDependencyError(f"{words[-1]} Install it with: pip install 'slimdet[fp8]'")
        if done.returncode or not (folder / _TARGET).is_file():
            raise ExportError(
                f"Model Optimizer {version} could not make the FP8 graph: {words[-1]}"
            )
        return onnx.load(str(folder / _TARGET))


class _Pictures:
    """Calibration inputs as Model Optimizer takes them, one picture at a time."""

    def __init__(self, pictures: NDArray[np.uint8], spec: InputSpec) -> None:
        self._pictures, self._spec, self._next = pictures, spec, 0

    def get_first(self) -> dict[str, Images]:
        return {self._spec.name: to_input([self._pictures[0]], self._spec)}

    def get_next(self) -> dict[str, Images] | None:
        if self._next == len(self._pictures):
            return None
        self._next += 1
        return {self._spec.name: to_input([self._pictures[self._next - 1]], self._spec)}

    def rewind(self) -> None:
        self._next = 0


def main(folder: Path) -> int:
    """Carry out the request in `folder`; return the process's exit code."""
    request = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
    try:
        from modelopt.onnx.quantization import quantize
    except ImportError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        sys.stderr.write(f"Model Optimizer lacks a package ({reason}).\n")
        return _ABSENT
    spec = InputSpec.model_validate(request["input"])
    pictures = np.load(folder / _PICTURES, mmap_mode="r", allow_pickle=False)
    quantize(
        str(folder / _SOURCE),
        quantize_mode="fp8",
        calibration_data_reader=_Pictures(pictures, spec),
        calibration_method="max",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",  # its own FP16 cast would include the geometry
        nodes_to_quantize=[f"^{re.escape(name)}$" for name in request["nodes"]],
        output_path=str(folder / _TARGET),
        log_level="ERROR",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
