"""Run a command as a user would and hold what it said against the promise of every command.

The promise: an exit code of the documented set, one message, no traceback, none of a library's
words, no control characters, nothing written outside of what was asked for.
"""

import contextlib
import importlib
import io
import re
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from export.errors import unsafe_character

CODES = frozenset({0, 1, 2, 3, 4, 5, 6, 130})
FOREIGN = re.compile(
    r"Traceback|pydantic|Input should|Field required|object has no attribute|NoneType|"
    r"KeyError|TypeError|IndexError|not subscriptable|list indices|unhashable|literal for int"
)
SECONDS = 5.0


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: exit code; None where it left an exception behind.
        out: standard output.
        err: standard error.
        seconds: processor time of this process, which other programs do not change.
        broken: promises that were not kept, in words.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    broken: tuple[str, ...]


def run(module: str, arguments: Sequence[str], limit: float = SECONDS) -> Outcome:
    """Call `module.main(arguments)` in this process."""
    main = importlib.import_module(module).main
    out, err, broken = io.StringIO(), io.StringIO(), []
    code: int | None = None
    start = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as error:  # argparse
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            broken.append("traceback: " + traceback.format_exc().strip().splitlines()[-1])
    seconds = time.process_time() - start
    said = out.getvalue() + err.getvalue()
    if code is not None and code not in CODES:
        broken.append(f"exit code {code}")
    if code and not err.getvalue().strip() and not out.getvalue().strip():
        broken.append("no message")
    if found := FOREIGN.search(said):
        broken.append(f"a library's words: {_around(said, found.start())}")
    unsafe = unsafe_character(said.replace("\n", "").replace("\t", ""))
    if unsafe:
        broken.append(f"a control character: {unsafe}")
    if seconds > limit:
        broken.append(f"took {seconds:.1f} s")
    return Outcome(code, out.getvalue(), err.getvalue(), seconds, tuple(broken))


def _around(text: str, place: int) -> str:
    return text[max(place - 60, 0) : place + 100].replace("\n", " ")
