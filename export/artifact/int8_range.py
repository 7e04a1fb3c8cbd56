"""Whether INT8 sums overflow on a processor. Imports nothing of ours: a bundle holds a copy.

x86 processors without VNNI multiply unsigned activations with signed weights in pairs and add the
two products in 16 bits (VPMADDUBSW), which saturates with weights of 8 bits: AP is lost in silence.
Weights of 7 bits fit. Other processors have no such limit.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_X86 = frozenset({"x86_64", "amd64", "i386", "i686", "x86"})


def saturates(machine: str, cpuinfo: str | None) -> bool | None:
    """Return whether sums of 8-bit products overflow; None where the processor is not known.

    Args:
        machine: as `platform.machine` gives it.
        cpuinfo: text of /proc/cpuinfo; None where the system has none.
    """
    if machine.lower() not in _X86:
        return False
    return None if cpuinfo is None else "vnni" not in cpuinfo


def saturates_here() -> bool | None:
    """Return `saturates` of this processor."""
    try:
        text = _CPUINFO.read_text()
    except OSError:
        text = None
    return saturates(platform.machine(), text)


def saturation_at(path: Path, device: str) -> str | None:
    """Return `saturation` here of the artifact at `path`; None where its sidecar cannot be read."""
    try:
        sidecar = json.loads(path.with_suffix(".json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return saturation(sidecar, device, saturates_here()) if isinstance(sidecar, dict) else None


def saturation(sidecar: Mapping[str, object], device: str, here: bool | None) -> str | None:
    """Return a warning where an artifact's weights are too wide for the processor that runs it.

    Args:
        sidecar: content of the artifact's sidecar, of which `precision` and `quantization` count.
        device: device that runs it.
        here: `saturates_here()`; None, an unknown processor, gives no warning.
    """
    made = sidecar.get("quantization")
    if not here or device != "cpu" or sidecar.get("precision") != "int8":
        return None
    if not isinstance(made, Mapping) or made.get("weight_bits") != 8:
        return None
    return (
        "its INT8 weights have 8 bits, and this processor has no VNNI, so that sums overflow and "
        "AP is lost; quantise it for this processor: slimdet build FP32.onnx --precision int8 "
        "--weight-bits 7 --images DIR --out DIR"
    )
