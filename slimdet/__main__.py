"""The command `slimdet`: front end to every command of the three packages.

`slimdet COMMAND --help` imports only the parser of the command; heavy packages are imported when
the command runs.
"""

import importlib
import sys
from collections.abc import Callable, Sequence

from _slimdet_packages import MISSING_PACKAGE, leave_current_folder, require_own
from slimdet.commands import COMMANDS

UNKNOWN_COMMAND = 2  # argparse's exit code for unknown arguments
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; return its exit code."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # commands handle later interrupts and report what was written
        exec("", {})  # see `keep_exit_code` of export.arguments
        sys.stderr.write("interrupted; nothing was written\n")
        return INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in {"-h", "--help", "help"}:
        sys.stdout.write(usage())
        return 0
    if name in {"-V", "--version"}:
        from slimdet import __version__

        sys.stdout.write(f"slimdet {__version__}\n")
        return 0
    if name not in COMMANDS:
        import difflib

        nearest = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"expected {', '.join(COMMANDS)}"
        sys.stderr.write(f"error: slimdet has no command {name!r}; {hint}\n")
        return UNKNOWN_COMMAND
    try:
        require_own("export", "benchmarks", "compress")
    except ImportError as error:
        sys.stderr.write(f"error: {error}\n")
        return MISSING_PACKAGE
    module, _, function = COMMANDS[name].target.partition(":")
    run: Callable[[Sequence[str], str], int] = getattr(importlib.import_module(module), function)
    return run(rest, f"slimdet {name}")


def usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.purpose}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: slimdet COMMAND [arguments]",
            "",
            "Distil a large object detector into a small one, and measure the exported files.",
            "",
            "commands:",
            *lines,
            "",
            "`slimdet COMMAND --help` describes a command.",
            "",
        ]
    )


if __name__ == "__main__":
    leave_current_folder()
    sys.exit(main())
