from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from benchmarks.timing.clocks import (
    ClockWatch,
    Reading,
    cpu_mhz,
    describe,
    energy_mj,
    ranges,
    throttled,
    unsteady,
)

STEADY = (Reading(sm_mhz=1980, limits=0), Reading(sm_mhz=1980, limits=0))


class Nvml(ModuleType):
    """What is used of pynvml, of a GPU that is hot; anything else is an AttributeError."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.open = False
        self.used_mj = 1000

    def nvmlInit(self) -> None:  # noqa: N802
        self.open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open = False

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"gpu{index}"

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return f"H100 ({handle})"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=-number) for number in range(len(handle) - 2)]

    def nvmlDeviceGetClockInfo(self, _handle: str, kind: int) -> int:  # noqa: N802
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetTemperature(self, _handle: str, _sensor: int) -> int:  # noqa: N802
        return 61

    def nvmlDeviceGetPowerUsage(self, _handle: str) -> int:  # noqa: N802
        raise RuntimeError("Not Supported")

    def nvmlDeviceGetCurrentClocksEventReasons(self, _handle: str) -> int:  # noqa: N802
        return 0x40

    def nvmlDeviceGetTotalEnergyConsumption(self, _handle: str) -> int:  # noqa: N802
        self.used_mj += 500
        return self.used_mj


def test_a_gpu_is_read_and_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    nvml = Nvml()
    with ClockWatch(gpu=True, nvml=nvml) as watch:
        before, after = watch.read(), watch.read()
    assert not nvml.open
    assert watch.gpu == "H100 (gpu3)"
    assert watch.others  # two processes beside this one
    assert (before.sm_mhz, before.memory_mhz, before.temperature_c) == (1980, 2619, 61)
    assert before.power_w is None  # a sensor that this GPU lacks
    assert throttled([(before, after)]) == ["GPU hardware thermal slowdown in 1 of 1 blocks"]
    assert energy_mj([(before, after)], pictures=100, seconds=1.0) == 5
    assert energy_mj([(before, after)], pictures=100, seconds=0.1) is None  # too short to tell


def test_an_unreadable_gpu_is_reported_and_does_not_stop_the_benchmark() -> None:
    class Broken(Nvml):
        def nvmlInit(self) -> None:  # noqa: N802
            raise RuntimeError("Driver Not Loaded")

    with ClockWatch(gpu=True, nvml=Broken()) as watch:
        assert watch.read().sm_mhz is None
    assert watch.gpu == "not watched: NVML says Driver Not Loaded"
    with ClockWatch(gpu=False) as watch:
        assert watch.gpu.startswith("not watched")


def test_an_sm_clock_that_moves_more_than_3_percent_is_throttling() -> None:
    slower = (STEADY[0], Reading(sm_mhz=1900, limits=0))  # 80 of 1980: 4 %
    assert throttled([STEADY, STEADY]) == []
    assert throttled([STEADY, slower]) == ["SM clock moved by 4%"]


def test_a_throttled_processor_is_counted_and_a_wandering_clock_is_named() -> None:
    hot = (
        Reading(cpu_mhz=3000, cpu_throttles=5),
        Reading(cpu_mhz=2400, cpu_throttles=7),
    )
    cool = (Reading(cpu_mhz=3000, cpu_throttles=7), Reading(cpu_mhz=3000, cpu_throttles=7))
    assert throttled([hot, cool]) == ["the processor was throttled 2 times"]
    assert unsteady([hot, cool]) == ["processor clock moved by 20%"]
    assert ranges([hot, cool]) == {"cpu_mhz": (2400, 3000)}
    assert describe(ranges([hot, cool])) == "processor 2400 to 3000 MHz"


def test_the_processor_clock_comes_from_cpufreq_else_from_cpuinfo(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    assert cpu_mhz(tmp_path, cpuinfo) is None
    cpuinfo.write_text("cpu MHz\t\t: 2100.0\nmodel name : x\ncpu MHz\t\t: 2300.0\n")
    assert cpu_mhz(tmp_path, cpuinfo) == 2200
