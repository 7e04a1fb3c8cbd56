"""What `verify` writes: names and messages with their control characters as escapes.

A bundle holds a copy of this file as `bundle_output.py`, so it imports nothing of ours.
"""

import argparse
import sys
from typing import NoReturn, TextIO


class Parser(argparse.ArgumentParser):
    """A parser whose errors show the control characters of an argument as escapes."""

    def error(self, message: str) -> NoReturn:
        """Write the usage and one line, and exit with 2."""
        super().error(_printable(message))


def say(line: str, to: TextIO | None = None) -> None:
    """Write one line to stdout, or to another stream."""
    (to or sys.stdout).write(_printable(line) + "\n")


def _printable(text: str) -> str:
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text
    )
