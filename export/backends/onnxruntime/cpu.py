"""Physical cores of this process, and whether its processor has VNNI for INT8."""

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """Count the physical cores this process may run on; hyper-threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return os.cpu_count() or 1
    processors = os.sched_getaffinity(0)
    cores = set()
    for processor in processors:
        siblings = _TOPOLOGY / f"cpu{processor}" / "topology" / "thread_siblings_list"
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(processor))
    return len(cores)


def int8_saturates() -> bool:
    """Return whether products of 8-bit activations and weights can overflow here.

    x86 processors without VNNI add two of them in 16 bits; weights must then have 7 bits. ARM
    processors have no such limit. Unknown processors count as limited.
    """
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return os.uname().machine not in {"arm64", "aarch64"} if hasattr(os, "uname") else True
    return "vnni" not in text and "asimd" not in text
