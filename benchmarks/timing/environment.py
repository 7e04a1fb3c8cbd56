"""Description of the machine and the installed packages."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

from benchmarks.timing.clocks import cpu_mhz

PACKAGES = (
    "slimdet",
    "numpy",
    "pillow",
    "pydantic",
    "torch",
    "torchvision",
    "lightning-fabric",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "nvidia-ml-py",
    "pycocotools",
    "ultralytics",
    "ultralytics-opencv-headless",
)
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp")


def environment() -> dict[str, JsonValue]:
    """Describe the machine as JSON; unknown values are null. Loads no heavy package."""
    load = load_average()
    return {
        "cpu": _cpu(),
        "memory_gib": _memory_gib(),
        "load_average": None if load is None else [*load],
        "os": platform.platform(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {**_packages()},
        "thread_variables": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            if name in os.environ
        },
        "gpus": [{**gpu} for gpu in _gpus()],
        "git": _git(Path(__file__).resolve().parent),
    }


def load_average() -> list[float] | None:
    """Return the load average over 1, 5 and 15 minutes; None where the system has none."""
    if not hasattr(os, "getloadavg"):
        return None
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except OSError:
        return None


def usable_cores() -> int:
    """Return the number of logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str | None:
    """Return the name of the processor; None if it is unknown."""
    pairs = _cpuinfo()
    model = next((value for key, value in pairs if key in ("model name", "Model")), None)
    return model or platform.processor() or None


def _cpuinfo() -> list[tuple[str, str]]:
    text = _read(Path("/proc/cpuinfo"))
    fields = [line.partition(":") for line in text.splitlines() if ":" in line]
    return [(key.strip(), value.strip()) for key, _, value in fields]


def _cpu() -> dict[str, JsonValue]:
    pairs = _cpuinfo()
    flags = next((value for key, value in pairs if key in ("flags", "Features")), "").split()
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "model": cpu_model(),
        "physical_cores": _physical_cores(pairs),
        "logical_cores": os.cpu_count(),
        "affinity": None if affinity is None else [*affinity],
        "mhz": cpu_mhz(Path("/sys/devices/system/cpu"), Path("/proc/cpuinfo")),
        "governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")).strip()
        or None,
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
    }


def _physical_cores(pairs: list[tuple[str, str]]) -> int | None:
    """Count distinct (socket, core) pairs of /proc/cpuinfo; None where it lists none (ARM)."""
    cores, socket = set(), "0"
    for key, value in pairs:
        if key == "physical id":
            socket = value
        elif key == "core id":
            cores.add((socket, value))
    return len(cores) or None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _packages() -> dict[str, str]:
    wanted = set(PACKAGES)
    found = {
        (distribution.metadata["Name"] or "").lower().replace("_", "-"): distribution.version
        for distribution in metadata.distributions()
    }
    return {name: found[name] for name in sorted(wanted & set(found))}


def _gpus() -> list[dict[str, str]]:
    fields = (
        *("name", "driver_version", "memory.total", "compute_cap"),
        *("clocks.sm", "clocks.max.sm", "power.limit", "persistence_mode"),
    )
    answer = _run("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    lines = [line.split(", ") for line in (answer or "").splitlines()]
    return [dict(zip(fields, line, strict=True)) for line in lines if len(line) == len(fields)]


def _git(folder: Path) -> dict[str, JsonValue] | None:
    """Return the commit of this file's checkout; None for an installed package."""
    root = _run("git", "-C", str(folder), "rev-parse", "--show-toplevel")
    commit = _run("git", "-C", str(folder), "rev-parse", "HEAD")
    if root is None or commit is None or Path(root).resolve() != folder.parent:
        return None  # for instance a virtual environment inside somebody's own checkout
    changed = _run("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed_files": len((changed or "").splitlines())}


def _run(program: str, *arguments: str) -> str | None:
    """Return a program's standard output; None if it is absent, fails or takes over 10 s."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
