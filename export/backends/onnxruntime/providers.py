"""ONNX Runtime's providers: no silent fallback from the GPU to the CPU."""

import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from export.backends.onnxruntime.devices import PROVIDERS, Device
from export.errors import ExportError
from export.pictures.images import Images

if TYPE_CHECKING:
    import onnxruntime

# Provider and its options, best first, as a session takes them.
Providers: TypeAlias = list[tuple[str, dict[str, str]]]

# Operators whose place decides the speed; shapes, index arithmetic and NMS may stay on the CPU.
_HEAVY = frozenset({"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul"})
_ADVICE = {
    "cuda": "install onnxruntime-gpu with its CUDA libraries, or set device: cpu",
    "tensorrt": "install onnxruntime-gpu with TensorRT's libraries, or set device: cuda or cpu",
}


def provider_settings(
    device: Device, folder: Path, profile: tuple[str, str, str] | None, *, graph: bool = False
) -> Providers:
    """Return the `providers` argument of a session on `device`.

    CUDA follows TensorRT for operators that TensorRT does not support. ONNX Runtime adds the CPU
    itself; `require_placement` checks what runs there.

    Args:
        device: device to run on.
        folder: artifact's folder; TensorRT keeps its engines in `.onnxruntime-tensorrt` there.
        profile: smallest, best and largest shape of the input, as `images:1x3x320x320`, where the
            batch is open.
        graph: whether the CUDA provider records a pass as a CUDA graph and replays it.
    """
    cuda = (PROVIDERS["cuda"], {"use_tf32": "0", **({"enable_cuda_graph": "1"} if graph else {})})
    if device == "cpu":
        return [(PROVIDERS["cpu"], {})]
    if device == "cuda":
        return [cuda]
    settings = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder / ".onnxruntime-tensorrt"),
        "trt_timing_cache_enable": "1",
    }
    if profile is not None:
        names = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
        settings.update(zip(names, profile, strict=True))
    return [(PROVIDERS["tensorrt"], settings), cuda]


def require_provider(
    path: Path, device: Device, found: Sequence[str], reason: str | None = None
) -> None:
    """Raise if the device's provider is missing, instead of running on the CPU.

    Raises:
        ExportError: the device's provider is not among those found.
    """
    if PROVIDERS[device] not in found:
        because = f" ({reason})" if reason else ""
        raise ExportError(
            f"{path}: device {device} was asked for, and ONNX Runtime offers {', '.join(found)}"
            f"{because}; {_ADVICE.get(device, 'reinstall onnxruntime')}"
        )


@dataclass
class Overheard:
    """Captured output of native code on stderr."""

    text: str = ""

    @property
    def reason(self) -> str | None:
        """Reason why a provider's library did not load, which ONNX Runtime prints to stderr."""
        found = re.search(r"with error: (.+)", self.text) or re.search(r"(CUDA error.+)", self.text)
        return found[1].strip() if found else None


@contextmanager
def overhear() -> Iterator[Overheard]:
    """Capture what native code writes to stderr."""
    heard = Overheard()
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield heard
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)
            kept.seek(0)
            heard.text = kept.read().decode(errors="replace")


def open_session(
    runtime: ModuleType,
    path: Path,
    device: Device,
    model: bytes | str,
    options: "onnxruntime.SessionOptions",
    providers: Providers,
) -> "onnxruntime.InferenceSession":
    """Return a session that has the device's provider.

    `model` is the file's content, or its path where weights may lie in a file beside it.

    Raises:
        ExportError: the provider did not load, with the reason; or the model is refused.
    """
    heard, refusal = Overheard(), None
    try:
        with overhear() if device != "cpu" else nullcontext(heard) as heard:
            session = runtime.InferenceSession(
                model, sess_options=options, providers=providers, enable_fallback=False
            )
    except Exception as error:  # ONNX Runtime's exception classes share no base but this
        if heard.reason is None:
            raise ExportError(
                f"{path}: ONNX Runtime {runtime.__version__} cannot load it: {error}"
            ) from error
        refusal = error
    found = [PROVIDERS["cpu"]] if refusal else session.get_providers()
    require_provider(path, device, found, heard.reason)
    return session


def run_session(
    path: Path,
    session: "onnxruntime.InferenceSession",
    names: Sequence[str] | None,
    inputs: Mapping[str, NDArray[np.generic]],
) -> list[NDArray[np.generic]]:
    """Run one pass on the host's arrays; return the outputs called `names`, or all for None.

    Raises:
        ExportError: ONNX Runtime fails.
    """
    try:
        found: list[NDArray[np.generic]] = session.run(names, dict(inputs))
    except Exception as error:  # as above
        said = " ".join(str(error).split())
        raise ExportError(
            f"{path}: ONNX Runtime cannot run it: {said}; export the model again"
        ) from error
    return found


def placement(
    runtime: ModuleType,
    path: Path,
    model: bytes,
    options: "onnxruntime.SessionOptions",
    providers: Providers,
    inputs: Mapping[str, Images],
) -> dict[str, Counter[str]]:
    """Run once under the profiler and return provider -> operator -> kernels that ran there.

    Raises:
        ExportError: the model does not run.
    """
    with tempfile.TemporaryDirectory(prefix="placement") as scratch:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        try:
            session = runtime.InferenceSession(
                model, sess_options=options, providers=providers, enable_fallback=False
            )
            session.run(None, inputs)
        except Exception as error:  # as above
            raise ExportError(
                f"{path}: ONNX Runtime {runtime.__version__} cannot run it: {error}"
            ) from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return read_placement(events)


def read_placement(events: Sequence[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Count the kernels of a profile by provider and operator."""
    found: dict[str, Counter[str]] = {}
    for event in events:
        about = event.get("args", {})
        ran = event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time")
        if ran and "provider" in about:
            operator = str(about.get("op_name", "unknown"))
            found.setdefault(str(about["provider"]), Counter())[operator] += 1
    return found


def require_placement(path: Path, device: Device, found: dict[str, Counter[str]]) -> dict[str, int]:
    """Return provider -> number of kernels; refuse a GPU session that computes on the CPU.

    Raises:
        ExportError: nothing ran on the device, or a convolution or matrix product did not.
    """
    counts = {provider: sum(operators.values()) for provider, operators in found.items()}
    wanted = PROVIDERS[device]
    listed = ", ".join(f"{count} on {name}" for name, count in counts.items()) or "none"
    if not counts.get(wanted):
        raise ExportError(
            f"{path}: device {device} was asked for, and no node ran on {wanted} ({listed}); "
            f"{_ADVICE.get(device, 'reinstall onnxruntime')}"
        )
    if device == "cpu":
        return counts
    left = {
        operator: count
        for operator, count in found.get(PROVIDERS["cpu"], Counter()).items()
        if operator in _HEAVY
    }
    if left:
        raise ExportError(
            f"{path}: device {device} was asked for, and ONNX Runtime left {left} to the CPU "
            f"({listed}); this graph is not for that provider: choose another precision or device"
        )
    return counts


def blank_input(session_input: "onnxruntime.NodeArg", batch: int) -> Images:
    """Return zeros of an input's shape and type, `batch` where the shape is open."""
    shape = [size if isinstance(size, int) else batch for size in session_input.shape]
    dtype = np.uint8 if session_input.type == "tensor(uint8)" else np.float32
    return np.zeros(shape, dtype=dtype)


# `y = Relu(x)` over one number, as a serialized ONNX model.
# On ONNX Runtime's scale. 2 warns of missing GPUs on every CPU machine. A pass that fails is an
# exception, and its log would print names of the file to the terminal as they are.
LOG_ERRORS, LOG_NOTHING = 3, 4
_PROBE = (
    b'\x08\x08:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04'
    b"\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


def why_unusable(runtime: ModuleType, device: Device) -> str | None:
    """Run a model of one node on `device`; return None where it runs, else why it does not."""
    wanted = PROVIDERS[device]
    if wanted not in runtime.get_available_providers():
        return f"this onnxruntime is made without {wanted}"
    if device != "cpu" and hasattr(runtime, "preload_dlls"):
        with overhear():
            runtime.preload_dlls()
    options = runtime.SessionOptions()
    try:
        with overhear() as heard:
            session = runtime.InferenceSession(
                _PROBE, sess_options=options, providers=[wanted], enable_fallback=False
            )
            answer = session.run(None, {"x": np.array([2.0], dtype=np.float32)})[0]
    except Exception as error:  # as above
        return heard.reason or str(error)
    if wanted not in session.get_providers():
        return heard.reason or f"{wanted} does not load"
    return None if float(answer[0]) == 2.0 else f"{wanted} computes {answer[0]} for Relu(2)"
