"""Detect load from other programs during a measurement."""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.timing.environment import load_average, usable_cores
from export.errors import counted

NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass
class LoadWatch:
    """Load average before and after, and the processor time of other programs in between.

    Attributes:
        load_before: 1-minute load average at the start; None where the system has none.
        load_after: 1-minute load average at the end, set by `reasons`.
        own_used_s: processor seconds that this process used, set by `reasons`.
        others_share: share of the processors that other programs used, set by `reasons`.
    """

    LOAD_MARGIN: ClassVar[float] = 0.5  # runnable processes above the number of cores
    OTHERS_SHARE: ClassVar[float] = 0.10  # of the cores this process may use

    load_before: float | None
    started_s: float
    own_s: float
    busy_s: float | None
    load_after: float | None = None
    own_used_s: float | None = None
    others_share: float | None = None

    @classmethod
    def start(cls) -> "LoadWatch":
        """Record load and processor time at the start."""
        return cls(_load(), time.monotonic(), time.process_time(), _busy_s())

    def reasons(self) -> list[str]:
        """Record the end; return reasons why the machine was busy, empty if it was not."""
        self.load_after = _load()
        found = []
        cores = os.cpu_count() or 1
        load = max((one for one in (self.load_before, self.load_after) if one), default=0.0)
        if load > cores + self.LOAD_MARGIN:
            found.append(f"load average up to {load:.1f} on {counted(cores, 'core')}")
        busy, elapsed = _busy_s(), time.monotonic() - self.started_s
        self.own_used_s = round(time.process_time() - self.own_s, 2)
        if busy is not None and self.busy_s is not None and elapsed > 0:
            others_s = (busy - self.busy_s) - self.own_used_s
            share = others_s / (elapsed * usable_cores())
            self.others_share = round(max(0.0, share), 3)
            # /proc/stat counts in hundredths of a second: short windows are ignored.
            if share > self.OTHERS_SHARE and others_s > 0.2:
                found.append(f"other programs used {share:.0%} of the processors")
        return found


def kind_of_reason(reason: str) -> str:
    """Return what a reason says without its figures."""
    return NUMBER.sub("#", reason)


def worst_reasons(reasons: Iterable[str]) -> dict[str, str]:
    """Return each kind of reason once, with the one that has the largest figures."""
    worst: dict[str, str] = {}
    for reason in reasons:
        kind = kind_of_reason(reason)
        worst[kind] = worse_reason(worst.get(kind, reason), reason)
    return worst


def worse_reason(one: str, other: str) -> str:
    """Return the one of two reasons of a kind that has the larger figures."""
    return max(one, other, key=lambda reason: [float(n) for n in NUMBER.findall(reason)])


def _load() -> float | None:
    averages = load_average()
    return None if averages is None else averages[0]


def _busy_s() -> float | None:
    """Return busy seconds since boot of the cores that this process may use (Linux only)."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    wanted = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    ticks = 0
    for name, *counts in (line.split() for line in lines if line.startswith("cpu")):
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq = (int(c) for c in counts[:7])
            ticks += user + nice + system + irq + softirq
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else None
