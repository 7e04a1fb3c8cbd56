"""Completion of `slimdet` in the shell: `slimdet completion bash`.

The script is generated once from the parsers of the commands; completion starts no Python.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence

from export.arguments import Parser, run_command
from export.optional import require
from slimdet.commands import COMMANDS

SHELLS = ("bash", "zsh", "tcsh")
EPILOG = """\
bash:  slimdet completion bash > ~/.local/share/bash-completion/completions/slimdet
zsh:   slimdet completion zsh > a folder of $fpath/_slimdet
tcsh:  slimdet completion tcsh > /etc/profile.d/slimdet.completion.csh
exit codes: 0 done, 1 other failure, 4 shtab is not installed"""


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = Parser(
        prog=prog,
        description="Print the script by which a shell completes slimdet's commands and options.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "slimdet completion") -> int:
    """Print the script; return the exit code."""
    options = command_line(prog).parse_args(arguments)
    return run_command(lambda: _complete(options))


def _complete(options: argparse.Namespace) -> int:
    shtab = require("shtab", extra="completion", purpose="Completion in the shell")
    parsers = {
        name: (parser_of(command.target, f"slimdet {name}"), command.purpose)
        for name, command in COMMANDS.items()
    }
    script = shtab.complete(whole(parsers, shtab.FILE), options.shell)
    sys.stdout.write(f"{script}\n")
    return 0


def parser_of(target: str, prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command whose function is `target`, "module:function"."""
    module, _, function = target.partition(":")
    own = "command_line" if function == "main" else f"{function}_command_line"
    parser: argparse.ArgumentParser = getattr(importlib.import_module(module), own)(prog)
    return parser


def whole(
    parsers: Mapping[str, tuple[argparse.ArgumentParser, str]], file: Mapping[str, str]
) -> argparse.ArgumentParser:
    """Return one parser with every command below it; arguments that are paths complete to files.

    Args:
        parsers: parser and purpose, by command.
        file: shtab's mark of an argument that is a file.
    """
    top = argparse.ArgumentParser(prog="slimdet")
    commands = top.add_subparsers()
    for name, (parser, purpose) in parsers.items():
        for action in parser._actions:
            if getattr(action.type, "__name__", "") == "some_path":
                action.complete = file  # type: ignore[attr-defined]
        commands.add_parser(name, parents=[parser], add_help=False, help=purpose)
    return top
