"""Start the real `slimdet run` again and again, each time in a process forked from a warm one.

Importing torch takes seconds, so this process imports everything once. Every start is a fork with a
session, streams and signal handlers of its own that calls `slimdet.__main__.main`, as the command
does. What a fork leaves out, signals during imports, is covered by starts of a whole new
interpreter (`cold=True`).
"""

import contextlib
import importlib
import json
import multiprocessing.util
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 180.0  # of the wall clock, for a start on a busy machine
STRAY_S = 60.0  # a child of a killed process may first have to finish its imports


@dataclass(frozen=True)
class Ended:
    """How one start ended.

    Attributes:
        code: exit code; negative for a signal, None where it had to be killed because it hung.
        said: standard error.
        done: whether it printed its report, the last that a run does.
        killed: whether a signal was sent before it ended by itself.
        stray_s: seconds until its last child process had ended; None if one never did.
    """

    code: int | None
    said: str
    done: bool
    killed: bool
    stray_s: float | None


@dataclass(frozen=True)
class Command:
    """A run of one recipe, to be started any number of times.

    Attributes:
        recipe: the recipe file.
        runs: folder of all runs.
        threads: torch's number of threads.
        shift_s: by how much `time.time` is wrong in the process.
        cold: start a new interpreter instead of a fork.
        known: file with the modules that the run imports; the first start to end writes it.
    """

    recipe: Path
    runs: Path
    threads: int = 1
    shift_s: float = 0.0
    cold: bool = False
    known: Path | None = None

    @property
    def home(self) -> Path:
        """The run's folder."""
        return self.runs / "smoke"

    def start(self) -> "Process":
        """Start it; return the process."""
        self.runs.mkdir(parents=True, exist_ok=True)
        out, err = (self.runs.parent / f"{name}.txt" for name in ("stdout", "stderr"))
        arguments = ["run", str(self.recipe), "--runs", str(self.runs), "--device", "cpu"]
        if self.cold:
            with out.open("wb") as printed, err.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "slimdet", *arguments],
                    cwd=ROOT,
                    env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
                    stdout=printed,
                    stderr=file,
                    start_new_session=True,
                    preexec_fn=_default_signals,
                )
            process.returncode = 0  # it is waited for below, by its number
            return Process(process.pid, out, err)
        self.warm()
        number = os.fork()
        if number == 0:
            self._child(arguments, out, err)
        return Process(number, out, err)

    def warm(self) -> None:
        """Import what the run is known to import, so that forks need not."""
        importlib.import_module("compress.pipeline")
        if self.known is not None and self.known.exists():
            for module in json.loads(self.known.read_text(encoding="utf-8")):
                if module not in sys.modules:
                    with contextlib.suppress(Exception):  # made while running, or optional
                        importlib.import_module(module)

    def _child(self, arguments: list[str], out: Path, err: Path) -> NoReturn:
        """Be the command; never return."""
        code = 1
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            for stream, file in ((1, out), (2, err)):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            _default_signals()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self.shift_s:
                real, shift = time.time, self.shift_s
                time.time = lambda: real() + shift
            importlib.import_module("torch").set_num_threads(self.threads)
            code = importlib.import_module("slimdet.__main__").main(arguments)
            if self.known is not None and not self.known.exists():
                names = [name for name in sys.modules if not name.startswith("__")]
                self.known.write_text(json.dumps(names), encoding="utf-8")
        except BaseException:
            traceback.print_exc()
        finally:  # what an interpreter does at its end
            sys.stderr.flush()
            multiprocessing.util._exit_function()  # type: ignore[attr-defined]
            os._exit(code)

    def finish(self, patience_s: float = PATIENCE_S) -> Ended:
        """Start it and wait for its end."""
        return self.start().wait(patience_s=patience_s)


@dataclass
class Process:
    """A started command."""

    number: int
    out: Path
    err: Path
    status: int | None = None

    def said(self) -> str:
        """Return what it has written to standard error so far."""
        return self.err.read_text(encoding="utf-8", errors="replace") if self.err.exists() else ""

    def running(self) -> bool:
        """Whether it has not ended yet."""
        if self.status is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                self.status = status
        return self.status is None

    def kill_when(
        self, moment: Callable[[], bool], number: signal.Signals, *, group: bool, twice: bool
    ) -> bool:
        """Send a signal as soon as `moment()` is true; return whether it was still running."""
        while self.running():
            if moment():
                send = os.killpg if group else os.kill
                send(self.number, number)
                if twice:
                    time.sleep(0.05)
                    if self.running():
                        send(self.number, number)
                return True
            time.sleep(0.002)
        return False

    def wait(self, *, killed: bool = False, patience_s: float = PATIENCE_S) -> Ended:
        """Wait for its end and for that of its child processes."""
        limit = time.monotonic() + patience_s
        while self.running() and time.monotonic() < limit:
            time.sleep(0.005)
        hung = self.running()
        if hung:
            os.killpg(self.number, signal.SIGKILL)
            _, self.status = os.waitpid(self.number, 0)
        assert self.status is not None
        begun, stray_s = time.monotonic(), None
        while time.monotonic() - begun < STRAY_S:
            if not _in_session(self.number):
                stray_s = time.monotonic() - begun
                break
            time.sleep(0.02)
        else:
            os.killpg(self.number, signal.SIGKILL)
        code = None if hung else os.waitstatus_to_exitcode(self.status)
        done = self.out.exists() and b"report.html" in self.out.read_bytes()
        return Ended(code, self.said(), done, killed, stray_s)


def _default_signals() -> None:
    """Ignore none: what runs in the background of a shell ignores SIGINT."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _in_session(number: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            text = (place / "stat").read_text()
        except OSError:
            continue
        state, _parent, _group, session = text.rpartition(")")[2].split()[:4]
        if int(session) == number and state != "Z":
            found.append(int(place.name))
    return found
