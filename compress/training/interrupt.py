"""Handle Ctrl-C: the first signal stops after the current step, the second at once."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from compress.console import Console
from export.arguments import handled


@contextlib.contextmanager
def interruptible(console: Console) -> Iterator[list[int]]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into an entry of the list; the same again kills."""
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if number in caught:  # a service manager may send SIGTERM and SIGHUP together
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        caught.append(number)
        console.print("stopping after this step and saving; press Ctrl-C again to quit at once")

    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # not under nohup
        numbers.append(hangup)
    with handled(numbers, note):
        yield caught
