"""What an acceptance found, written after every part, and the time that it may take."""

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from benchmarks.record import Record
from benchmarks.timing.clocks import ClockWatch, Reading
from export.atomic import write_json
from export.errors import ToolkitError

GRACE = 1.5  # a part that takes this share of its time is stopped


class Goal(Record):
    """A figure with the limit that it should keep.

    Attributes:
        name: what was measured.
        value: the figure; None where it could not be measured.
        limit: the largest figure that is good enough.
    """

    name: str
    value: float | None
    limit: float

    @property
    def met(self) -> bool:
        """Whether the figure is within the limit."""
        return self.value is not None and self.value <= self.limit


class PartRecord(Record):
    """The outcome of one part.

    Attributes:
        state: `skipped` where the machine or the command lacks what it needs.
        why: reason of another state than `done`.
        seconds: time that it took.
        clocks: readings before and after it, where the machine reports any.
        found: its figures.
        goals: figures with limits.
    """

    state: Literal["done", "skipped", "failed"]
    why: str = ""
    seconds: float = 0.0
    clocks: tuple[dict[str, JsonValue], dict[str, JsonValue]] | None = None
    found: dict[str, JsonValue] = Field(default_factory=dict)
    goals: tuple[Goal, ...] = ()


class SkippedError(Exception):
    """The machine or the command lacks what a part needs; the message says what."""


class PartTimeoutError(Exception):
    """A part took much more than its time."""


@dataclass(frozen=True)
class Deadline:
    """The time of one part."""

    end: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Return the deadline so many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds that are left, 0 at least."""
        return max(0.0, self.end - time.monotonic())


Found = tuple[dict[str, JsonValue], list[Goal]]
Work = Callable[[Deadline], Found]


@dataclass
class Acceptance:
    """The outcome of all parts so far, and its file.

    Attributes:
        out: the file, rewritten after every part.
        head: machine, commit, packages and options.
        gpu: whether the clocks of a GPU are read.
    """

    out: Path
    head: dict[str, JsonValue]
    gpu: bool

    def __post_init__(self) -> None:
        """Begin without a part."""
        self.parts: dict[str, PartRecord] = {}

    def carry_out(self, name: str, work: Work, seconds: float) -> PartRecord:
        """Carry out one part and write the file; its errors are recorded, not raised."""
        began = time.monotonic()
        with ClockWatch(gpu=self.gpu) as watch:
            before = watch.read()
            try:
                with _stopped_after(GRACE * seconds):
                    found, goals = work(Deadline.after(seconds))
                part = PartRecord(state="done", found=found, goals=tuple(goals))
            except SkippedError as reason:
                part = PartRecord(state="skipped", why=str(reason))
            except (ToolkitError, PartTimeoutError) as error:
                part = PartRecord(state="failed", why=str(error))
            except Exception as error:  # one part's fault is no reason to lose the others
                traceback.print_exc(file=sys.stderr)
                part = PartRecord(state="failed", why=f"{type(error).__name__}: {error}")
            after = watch.read()
        spent = {
            "seconds": round(time.monotonic() - began, 1),
            "clocks": (_stated(before), _stated(after)),
        }
        self.parts[name] = part.model_copy(update=spent)
        self.write()
        return self.parts[name]

    def write(self) -> None:
        """Write the file, atomically."""
        parts = {name: part.model_dump(mode="json") for name, part in self.parts.items()}
        goals = [
            {**goal.model_dump(mode="json"), "met": goal.met, "part": name}
            for name, part in self.parts.items()
            for goal in part.goals
        ]
        write_json({"schema": 1, **self.head, "parts": parts, "goals": goals}, self.out)


def _stated(reading: Reading) -> dict[str, JsonValue]:
    fields = ("cpu_mhz", "sm_mhz", "memory_mhz", "temperature_c", "power_w", "limits")
    return {name: getattr(reading, name) for name in fields}


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raise `PartTimeoutError` in the body after so many seconds, where the system has timers."""

    def stop(*_: object) -> None:
        raise PartTimeoutError(f"stopped after {seconds:.0f} s, {GRACE:g} times its time")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
