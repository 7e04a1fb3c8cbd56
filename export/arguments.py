"""Shared by the commands: argument types, parsers, errors; imports nothing heavy."""

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from export.errors import ToolkitError, printable, shown

INTERRUPTED = 130  # exit code after Ctrl-C
_AGAIN_S = 0.02  # until a lost interrupt is sent again
# The bounds of `export.config`, which loads more than a parser needs.
_MOST, _MOST_THREADS, _MOST_SEED = 1_000_000, 1024, 2**32 - 1


def positive(text: str) -> int:
    """Read a whole number from 1 to a million, the bounds of a recipe's numbers."""
    return _whole(text, 1, _MOST)


def thread_count(text: str) -> int:
    """Read a number of CPU threads."""
    return _whole(text, 1, _MOST_THREADS)


def random_seed(text: str) -> int:
    """Read a seed, a whole number of 32 bits."""
    return _whole(text, 0, _MOST_SEED)


def _whole(text: str, least: int, most: int) -> int:
    # Python's `int` also reads `1_0`, as 10
    if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number")
    value = int(text)
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(
            f"{text} is {f'less than {least}' if value < least else f'more than {most}'}"
        )
    return value


def decimal(text: str) -> float:
    """Read a number in decimal digits; Python's `float` would also read `1_0`, as 10."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number")
    return float(text)


def threshold(text: str) -> float:
    """Read a score threshold in 0..1."""
    value = decimal(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value


def some_path(text: str) -> Path:
    """Read a path; an empty one would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; name a file or a folder")
    return Path(text)


def gpu_index(text: str) -> int:
    """Read which GPU is meant: `cuda`, `cuda:N` or N."""
    value = text.removeprefix("cuda").removeprefix(":") or "0"
    if not re.fullmatch(r"[0-9]{1,4}", value):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a GPU; use cuda:0, or its number")
    return int(value)


class Parser(argparse.ArgumentParser):
    """A parser whose errors show the control characters of an argument as escapes."""

    def error(self, message: str) -> NoReturn:
        """Write the usage and one line, and exit with 2."""
        super().error(printable(message))


def say(line: str, to: TextIO | None = None) -> None:
    """Write one line to stdout, or to another stream.

    Control characters and line breaks inside it, which names of files may have, become escapes.
    """
    stream = to or sys.stdout
    stream.write(printable(line) + "\n")
    stream.flush()


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, of a command whose output then is one line of JSON."""
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead")


def threads_option(parser: argparse.ArgumentParser) -> None:
    """Add `--threads`, of a command that runs models on the CPU."""
    parser.add_argument("--threads", type=thread_count, help="CPU threads (default: all cores)")


def names_among(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a function that reads comma-separated names, each of them one of `known`."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown: {printable(', '.join(unknown))}; known: {', '.join(known)}"
            )
        return names

    return read


def parser_of(prog: str, description: str, exit_codes: str) -> Parser:
    """Return a parser without arguments whose help ends with the command's exit codes."""
    return Parser(prog=prog, description=description, epilog=f"exit codes: {exit_codes}")


def keep_exit_code() -> None:
    """Let this process end with its own exit code after a KeyboardInterrupt that was caught.

    Where one has passed through `exec` or `eval` of a text, as while a dataclass is made during an
    import, CPython remembers it and ends by SIGINT, unless it evaluates another text.
    """
    exec("", {})


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the body as Ctrl-C does: by KeyboardInterrupt, with a message."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    found = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # nohup ignores SIGHUP, and so do we
    numbers = [number for number in found if signal.getsignal(number) is signal.SIG_DFL]
    with handled(numbers, stop), _interrupts_kept(numbers[0] if numbers else signal.SIGINT):
        try:
            yield
        except KeyboardInterrupt:
            keep_exit_code()
            raise


@contextmanager
def _interrupts_kept(number: signal.Signals) -> Iterator[None]:
    """Send `number` again when a KeyboardInterrupt was lost.

    Python drops an exception in a destructor or in the callback of a weak reference, and prints its
    traceback; an interrupt that arrives while one of these runs would have no effect.
    """
    before, timers = sys.unraisablehook, list[threading.Timer]()

    def keep(lost: "sys.UnraisableHookArgs") -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            before(lost)
            return
        timers.append(threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number)))
        timers[-1].start()

    sys.unraisablehook = keep
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()


@contextmanager
def handled(
    numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Handle signals inside the body; outside of the main thread, which alone may, do nothing."""
    before = {}
    try:
        for number in numbers:
            before[number] = signal.signal(number, handler)
    except ValueError:
        pass
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


def require_current_folder() -> None:
    """Check that the current folder exists: without it no relative path has a meaning.

    Raises:
        ToolkitError: it was deleted.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise ToolkitError(
            f"the current folder cannot be used ({error.strerror}): it was deleted or moved away; "
            "change to another folder with cd, and give the command again"
        ) from None


def in_words(error: OSError) -> str:
    """Return a failure of the operating system as `file: reason`."""
    place = f"{error.filename}: " if error.filename else ""
    return f"{printable(place)}{error.strerror or 'cannot be read or written'}"


@contextmanager
def signals_for_this_process_alone() -> Iterator[None]:
    """Keep SIGINT, SIGTERM and SIGHUP from the processes that the body starts.

    Terminals and service managers send them to every process of a command; child processes have to
    live until this one has ended its work, and end with it. Signals to the calling thread wait
    until the body has run.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_command(work: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Run a command and return its exit code; a user's mistake is one line on stderr.

    Args:
        work: the command; returns its exit code.
        interrupted: message after Ctrl-C or SIGTERM, which exit with 130.
    """
    try:
        with terminable():
            require_current_folder()
            code = work()
            sys.stdout.flush()
            return code
    except ToolkitError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ToolkitError.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {in_words(error)}\n")
        return ToolkitError.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        return INTERRUPTED
