"""Messages and progress: bars with an ETA on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from export.errors import printable


class Console:
    """Writes to stderr; stdout is reserved for results."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet  # set on all ranks but the first

    def print(self, line: str = "") -> None:
        """Write one line; control characters and line breaks inside it become escapes."""
        if not self.quiet:
            sys.stderr.write(printable(line) + "\n")
            sys.stderr.flush()

    def warn(self, line: str) -> None:
        """Write a warning."""
        self.print(f"WARNING: {line}")

    @contextmanager
    def progress(self, what: str, total: int, done: int = 0) -> Iterator["Progress"]:
        """Show progress from `done` to `total` while the body runs."""
        if self.quiet or not sys.stderr.isatty():
            yield PlainProgress(self, what, total, done)
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=RichConsole(stderr=True),
        )
        with bar:
            task = bar.add_task(printable(what), total=total, completed=done, text="")

            class Bar(Progress):
                def update(self, step: int, text: str = "") -> None:
                    bar.update(task, completed=step, text=text)

            yield Bar()


class Progress:
    """The interface of a progress display."""

    def update(self, step: int, text: str = "") -> None:
        """Report that `step` steps are done; `text` is the newest figure."""
        raise NotImplementedError


class PlainProgress(Progress):
    """Writes a line every 15 seconds, for logs and pipes."""

    every_s = 15.0

    def __init__(self, console: Console, what: str, total: int, done: int) -> None:
        self.console, self.what, self.total = console, what, total
        self.first, self.start = done, time.monotonic()
        self.written = self.start

    def update(self, step: int, text: str = "") -> None:
        """Write a line if the last one is older than `every_s`, with the estimated time left."""
        now = time.monotonic()
        if now - self.written < self.every_s and step != self.total:
            return
        self.written = now
        done = max(1, step - self.first)
        left_s = (now - self.start) / done * (self.total - step)
        self.console.print(f"{self.what}: {step}/{self.total}  {text}  (about {left_s:.0f} s left)")
