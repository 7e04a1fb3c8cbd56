"""python -m compress.run recipe.yaml: one recipe, from data to report."""

import argparse
import gc
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compress.console import Console
from export.arguments import (
    INTERRUPTED,
    Parser,
    in_words,
    require_current_folder,
    say,
    some_path,
    terminable,
)
from export.errors import ToolkitError, printable
from export.optional import require

DESCRIPTION = """\
Run a recipe from data to report: train or load the teacher, train the student with and without
distillation, export to ONNX, measure accuracy and latency of what was exported, write the report.
A recipe without teacher and distill trains one detector.
Run the same command again to resume after an interruption; finished stages are kept."""

EPILOG = """\
any key of the recipe can be set:
  %(prog)s recipe.yaml train.epochs=1 student.backbone=resnet18
several processes:
  torchrun --nproc-per-node 8 {module} recipe.yaml
exit codes: 0 done, 1 other failure, 2 recipe, 3 data, 4 missing package or weights, 5 training
diverged, 6 export or engine, 130 interrupted"""


CHECKS = """\
Validate a recipe, read the headers of its pictures, build and match the models, and print the plan.
Changes nothing."""


TEACHES = """\
Train or load the teachers of a recipe with `teach`, pass the views of the pictures through them,
and store their outputs beside the runs. `slimdet run` does so before it trains the students.
Run the same command again to resume after an interruption; finished parts are kept."""


def command_line(prog: str, *, check: bool = False, teach: bool = False) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments.

    Args:
        prog: the command as the user typed it.
        check: whether the command only checks, and so needs no `--check`.
        teach: whether the command ends before the students train.
    """
    parser = Parser(
        prog=prog,
        description=CHECKS if check else TEACHES if teach else DESCRIPTION,
        epilog=EPILOG.format(module=_for_torchrun(prog)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(check=check, teach=teach)
    parser.add_argument("recipe", type=some_path, help="the recipe, a YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that override the recipe's"
    )
    if not check:
        parser.add_argument(
            "--check",
            action="store_true",
            help="validate, read the pictures' headers, build and match the models, print the "
            "plan; change nothing",
        )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="also time a forward pass of each model, and say how long training may take"
        + ("" if check else " (implies --check)"),
    )
    parser.add_argument(
        "--runs",
        type=some_path,
        default=Path("runs"),
        metavar="DIR",
        help="where run folders are made (default: runs)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line of stdout"
    )
    return parser


def _for_torchrun(prog: str) -> str:
    """What torchrun starts: the command `slimdet`, or this module."""
    return "--no-python slimdet run" if prog.startswith("slimdet") else "-m compress.run"


def main(arguments: Sequence[str] | None = None, prog: str = "python -m compress.run") -> int:
    """Run and return the exit code; a user's mistake is one message, never a traceback."""
    return _run(command_line(prog).parse_intermixed_args(arguments))


def check_command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command that checks alone."""
    return command_line(prog, check=True)


def check(arguments: Sequence[str] | None = None, prog: str = "slimdet check") -> int:
    """Do what `main` does with `--check`."""
    return _run(check_command_line(prog).parse_intermixed_args(arguments))


def teach_command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command that stores the teachers' outputs."""
    return command_line(prog, teach=True)


def teach(arguments: Sequence[str] | None = None, prog: str = "slimdet teach") -> int:
    """Store the teachers' outputs and return the exit code."""
    return _run(teach_command_line(prog).parse_intermixed_args(arguments))


def _run(options: argparse.Namespace) -> int:
    console = Console(quiet=int(os.environ.get("RANK", "0")) != 0)
    outcome: dict[str, object] = {"ok": False}
    try:
        with terminable():
            require_current_folder()
            outcome |= {"ok": True, **execute(options, console)}
        code = 0
    except ToolkitError as error:
        outcome |= {"error": str(error), "kind": type(error).__name__}
        code = error.exit_code
        _print_error(console, error)
    except KeyboardInterrupt:
        outcome |= {"error": "interrupted", "kind": "KeyboardInterrupt"}
        code = INTERRUPTED
        console.print("interrupted; run the same command again to go on from here")
    except OSError as error:
        outcome |= {"error": str(error), "kind": type(error).__name__}
        code = 1
        console.print(f"error: {in_words(error)}")
    except Exception as error:
        outcome |= {"error": f"{type(error).__name__}: {error}", "kind": type(error).__name__}
        code = 1
        if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
            reason = " ".join(str(error).split())
            console.print(
                f"error: out of memory ({reason}). Lower train.batch and raise train.accumulate "
                "by as much, under a new name"
            )
        else:
            sys.stderr.write(printable(traceback.format_exc(), keep="\n"))
            console.print("this is a bug in slimdet: please report it with the lines above")
    if options.json and not console.quiet:
        sys.stdout.write(json.dumps({**outcome, "exit_code": code}) + "\n")
        sys.stdout.flush()
    return code


def _print_error(console: Console, error: ToolkitError) -> None:
    """Print an error of one or several lines."""
    for line in f"error: {error}".split("\n"):
        console.print(line)


def execute(options: argparse.Namespace, console: Console) -> dict[str, object]:
    """Check or run; return what the JSON line says. Heavy imports begin here."""
    from compress.recipe_file import check_form

    check_form(options.recipe)  # before seconds of imports
    checks = options.check or options.estimate
    with _collector_paused():
        if checks:
            from compress.parts.without_compiler import import_torchvision

            import_torchvision()  # saves a second; training needs the compiler's modules anyway
        for package in ("torch", "torchvision"):
            require(package, extra="train", purpose="Carrying out a recipe")
        from compress.recipe import load_recipe
    recipe, source = load_recipe(options.recipe, options.overrides)
    if checks:
        with _collector_paused():
            from compress.plan import plan
        found = plan(recipe, source, options.runs, options.device, estimate=options.estimate)
        for line in found.lines():
            console.print(line)
        return {"check": found.to_dict()}
    with _collector_paused():
        from compress.pipeline import run, teach
    if options.teach:
        home = teach(recipe, source, options.runs, options.device, console)
        return {
            "name": recipe.name,
            "run": str(home),
            "teach": json.loads((home / "teach.json").read_text("utf-8")),
        }
    report = run(recipe, source, options.runs, options.device, console)
    if console.quiet:
        return {}
    headline = json.loads((report / "report.json").read_text(encoding="utf-8"))
    if not options.json:
        say(str(report / "report.html"))
    return {
        "name": recipe.name,
        "report": str(report / "report.json"),
        "html": str(report / "report.html"),
        "gain": headline["gain"],
    }


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector during imports, which make many objects and hardly any garbage.

    Searching all of torch's objects for garbage again and again takes a fifth of the time of
    importing it. `freeze` spares later collections the same search.
    """
    if not gc.isenabled():
        yield
        return
    first = "torch" not in sys.modules
    gc.disable()
    try:
        yield
        if first:
            gc.freeze()
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
