"""Handle Ctrl-C: the first signal stops after the current step, the second at once."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from compress.console import Console
from export.arguments import handled


@contextlib.contextmanager
def interruptible(console: Console) -> Iterator[list[int]]:
    """Turn the first SIGINT or SIGTERM into an entry of the list; the second one kills."""
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if caught:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        caught.append(number)
        console.print("stopping after this step and saving; press Ctrl-C again to quit at once")

    with handled((signal.SIGINT, signal.SIGTERM), note):
        yield caught
