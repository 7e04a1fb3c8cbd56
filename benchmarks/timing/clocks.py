"""Read the clocks of processor and GPU during a measurement, to detect throttling.

Clocks are read and never set: on borrowed machines they cannot be locked, so the report states
their range. The GPU is read through NVML (package nvidia-ml-py, optional).
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import TypeVar

_Value = TypeVar("_Value")

# NVML's bits of the reasons that limit the clock.
LIMITS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
SM_MARGIN = 0.03  # the SM clock may move by this share
CPU_MARGIN = 0.10  # a core's clock is read at one moment, so it may move more
ENERGY_WINDOW_S = 0.5  # NVML's counter moves in steps of up to 0.1 s: shorter windows are ignored


@dataclass(frozen=True)
class Reading:
    """One reading of the clocks; None where the machine does not report a value.

    Attributes:
        cpu_mhz: mean over the cores that this process may use.
        cpu_throttles: number of times that a core was throttled since boot.
        limits: NVML's bit mask of active limits, see `LIMITS`.
        energy_mj: energy of the whole board since the driver was loaded, millijoules.
    """

    cpu_mhz: float | None = None
    cpu_throttles: int | None = None
    sm_mhz: float | None = None
    memory_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    limits: int | None = None
    energy_mj: float | None = None


Span = tuple[Reading, Reading]  # before and after a block


class ClockWatch:
    """Reads processor and GPU clocks. Opens NVML on enter, closes it on exit.

    Attributes:
        gpu: name of the GPU, or why it is not read.
        others: whether other programs were using the GPU at the start.
    """

    def __init__(
        self,
        *,
        gpu: bool,
        nvml: ModuleType | None = None,
        system: Path = Path("/sys/devices/system/cpu"),
        cpuinfo: Path = Path("/proc/cpuinfo"),
    ) -> None:
        self.gpu = "not watched: no engine here uses one"
        self.others = False
        self._wanted, self._nvml = gpu, nvml
        self._handle: object | None = None
        self._system, self._cpuinfo = system, cpuinfo

    def __enter__(self) -> "ClockWatch":
        """Open NVML and find the first GPU that CUDA sees."""
        if not self._wanted:
            return self
        if self._nvml is None:
            try:
                import pynvml
            except ImportError:
                self.gpu = "not watched: nvidia-ml-py is not installed (slimdet[nvml])"
                return self
            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
            self._handle = _visible_gpu(self._nvml)
            name = self._nvml.nvmlDeviceGetName(self._handle)
            self.gpu = name.decode() if isinstance(name, bytes) else str(name)
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
            others = {process.pid for process in running} - {os.getpid()}
            # In a container the process id differs from NVML's, so count processes. A process that
            # was started only to measure has a parent that may hold the GPU as well.
            own = 1 if multiprocessing.parent_process() is None else 2
            self.others = len(others) > own
        except Exception as error:  # every NVML failure is its own class; none may end a benchmark
            self.gpu = f"not watched: NVML says {error}"
            self._handle = None
        return self

    def __exit__(self, *_: object) -> None:
        """Close NVML."""
        if self._handle is not None and self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._handle = None

    def read(self) -> Reading:
        """Read every clock once; takes about a millisecond."""
        return replace(
            self._read_gpu(),
            cpu_mhz=cpu_mhz(self._system, self._cpuinfo),
            cpu_throttles=_throttles(self._system),
        )

    def _read_gpu(self) -> Reading:
        nvml, handle = self._nvml, self._handle
        if nvml is None or handle is None:
            return Reading()
        reasons = getattr(
            nvml,
            "nvmlDeviceGetCurrentClocksEventReasons",
            getattr(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None),
        )

        def clock(domain: int) -> float:
            return float(nvml.nvmlDeviceGetClockInfo(handle, domain))

        def temperature() -> float:
            return float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))

        return Reading(
            sm_mhz=_asked(lambda: clock(nvml.NVML_CLOCK_SM)),
            memory_mhz=_asked(lambda: clock(nvml.NVML_CLOCK_MEM)),
            temperature_c=_asked(temperature),
            power_w=_asked(lambda: float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1e3),
            limits=_asked(lambda: int(reasons(handle))) if reasons else None,
            energy_mj=_asked(lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))),
        )


def throttled(spans: Sequence[Span]) -> list[str]:
    """Return reasons why the machine was throttled during the blocks; empty if it was not."""
    found = []
    for bit, name in LIMITS.items():
        hit = sum(any((look.limits or 0) & bit for look in span) for span in spans)
        if hit:
            found.append(f"GPU {name} in {hit} of {len(spans)} blocks")
    moved = _moved(spans, "sm_mhz")
    if moved is not None and moved > SM_MARGIN:
        found.append(f"SM clock moved by {moved:.0%}")
    events = [
        after.cpu_throttles - before.cpu_throttles
        for before, after in spans
        if before.cpu_throttles is not None and after.cpu_throttles is not None
    ]
    if sum(events):
        found.append(f"the processor was throttled {sum(events)} times")
    return found


def unsteady(spans: Sequence[Span]) -> list[str]:
    """Return a reason if the processor's clock changed by more than `CPU_MARGIN`."""
    moved = _moved(spans, "cpu_mhz")
    if moved is None or moved <= CPU_MARGIN:
        return []
    return [f"processor clock moved by {moved:.0%}"]


def ranges(spans: Sequence[Span]) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest value of every clock and sensor."""
    found = {}
    for name in (field.name for field in fields(Reading)):
        if name in ("limits", "energy_mj", "cpu_throttles"):
            continue
        values = _values(spans, name)
        if values:
            found[name] = (round(min(values), 1), round(max(values), 1))
    return found


def energy_mj(spans: Sequence[Span], pictures: int, seconds: float) -> float | None:
    """Return millijoules per picture of the whole board, idle power included; None if unknown."""
    used = [
        after.energy_mj - before.energy_mj
        for before, after in spans
        if before.energy_mj is not None and after.energy_mj is not None
    ]
    if len(used) < len(spans) or not used or seconds < ENERGY_WINDOW_S or not pictures:
        return None
    return sum(used) / pictures


def cpu_mhz(system: Path, cpuinfo: Path) -> float | None:
    """Return the current mean clock of the cores that this process may use; None if unknown."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    files = [system / f"cpu{core}" / "cpufreq" / "scaling_cur_freq" for core in cores]
    try:
        found = [int(file.read_text(encoding="ascii")) / 1e3 for file in files]
    except (OSError, ValueError):  # virtual machines have no cpufreq
        try:
            lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        found = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return sum(found) / len(found) if found else None


def _asked(ask: Callable[[], _Value]) -> _Value | None:
    """Return a sensor's value; None where this GPU has no such sensor."""
    try:
        return ask()
    except Exception:
        return None


def _throttles(system: Path) -> int | None:
    files = system.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    try:
        counted = [int(file.read_text(encoding="ascii")) for file in files]
    except (OSError, ValueError):
        return None
    return sum(counted) if counted else None


def _visible_gpu(nvml: ModuleType) -> object:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
    if first.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(first))
    return nvml.nvmlDeviceGetHandleByUUID(first)


def _values(spans: Sequence[Span], name: str) -> list[float]:
    values = [getattr(look, name) for span in spans for look in span]
    return [float(value) for value in values if value is not None]


def _moved(spans: Sequence[Span], name: str) -> float | None:
    """Return the range of a clock as a share of its highest value, at the ends of the blocks."""
    values = [getattr(after, name) for _, after in spans if getattr(after, name) is not None]
    return (max(values) - min(values)) / max(values) if values and max(values) else None


def describe(readings: Mapping[str, Sequence[float]]) -> str:
    """Format ranges as `SM 1980 MHz, GPU 61 to 64 C`."""
    names = {
        "cpu_mhz": ("processor", "MHz"),
        "sm_mhz": ("SM", "MHz"),
        "memory_mhz": ("memory", "MHz"),
        "temperature_c": ("GPU", "\u00b0C"),
        "power_w": ("GPU", "W"),
    }
    parts = []
    for key, (name, unit) in names.items():
        if key in readings:
            low, high = readings[key]
            span = f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"
            parts.append(f"{name} {span} {unit}")
    return ", ".join(parts)
