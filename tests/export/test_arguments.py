import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from export.arguments import (
    parser_of,
    positive,
    random_seed,
    run_command,
    say,
    signals_for_this_process_alone,
    terminable,
    thread_count,
    threshold,
)
from export.artifact import bundle_output
from export.config import MOST_THREADS

pytestmark = pytest.mark.usefixtures("foreground")


@pytest.mark.parametrize(
    ("reads", "least", "most"),
    [(positive, 1, 1_000_000), (thread_count, 1, MOST_THREADS), (random_seed, 0, 2**32 - 1)],
)
def test_numbers_of_options_have_two_bounds(reads, least, most):
    assert (reads(str(least)), reads(str(most))) == (least, most)
    with pytest.raises(argparse.ArgumentTypeError, match=f"less than {least}"):
        reads(str(least - 1))
    with pytest.raises(argparse.ArgumentTypeError, match=f"more than {most}"):
        reads(str(most + 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_command_with_a_message_and_its_code(number, capsys):
    def work() -> int:
        os.kill(os.getpid(), number)
        return 0

    assert run_command(work, "interrupted; nothing was written") == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"


def test_handlers_are_given_back_and_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_wait_while_processes_are_started():
    done = []

    def work() -> int:
        with signals_for_this_process_alone():
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # others may have it
            done.append("started")
        return 0

    assert run_command(work) == 130
    assert done == ["started"]


@pytest.mark.parametrize("read", [positive, random_seed, threshold])
@pytest.mark.parametrize("text", ["0_1", "1_0", "", "nan", "\u0661", "one"])
def test_numbers_are_decimal_digits(read, text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a"):
        read(text)
    assert read("1") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_arrives_in_a_destructor_still_ends_the_command(number, capsys):
    class Signalling:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    def work() -> int:
        Signalling()
        time.sleep(20)
        return 0

    before = sys.unraisablehook
    assert run_command(work, "interrupted; nothing was written") == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert sys.unraisablehook is before


@pytest.mark.parametrize(
    ("module", "work", "call"),
    [
        ("export.arguments", "work", "export.arguments.run_command(work)"),
        ("compress.run", "compress.run.execute", "compress.run.main(['recipe.yaml'])"),
        ("slimdet.__main__", "slimdet.__main__._run", "slimdet.__main__.main([])"),
    ],
)
def test_an_interrupt_inside_of_a_text_that_is_evaluated_keeps_the_exit_code(
    module, work, call, tmp_path
):
    """As in a dataclass that is being defined: CPython would end by SIGINT."""
    code = f"""
import sys
import {module}
def interrupted(*_): exec("raise KeyboardInterrupt")
{work} = interrupted
sys.exit({call})
"""
    (tmp_path / "interrupted.py").write_text(code)
    path = os.pathsep.join((str(tmp_path), str(Path(__file__).resolve().parents[2])))
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 130
    assert done.stderr.count("interrupted") == 1
    assert "Traceback" not in done.stderr


HOSTILE = "\x1b[31m\x9b\u202ea\nb\rc.png"
SHOWN = "\\x1b[31m\\x9b\\u202ea\\nb\\rc.png"


def test_a_line_of_output_shows_control_characters_and_line_breaks_as_escapes(capsys):
    say(f"{HOSTILE}: done")
    say(f"{HOSTILE}: odd", sys.stderr)
    assert capsys.readouterr() == (f"{SHOWN}: done\n", f"{SHOWN}: odd\n")


@pytest.mark.parametrize("parser", [parser_of("x", "", ""), bundle_output.Parser(prog="x")])
def test_an_unknown_option_is_shown_with_escapes(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args([f"--{HOSTILE}"])
    assert f"unrecognized arguments: --{SHOWN}\n" in capsys.readouterr().err


def test_the_copy_of_a_bundle_prints_as_the_commands_do(capsys):
    bundle_output.say(HOSTILE)
    assert capsys.readouterr().out == f"{SHOWN}\n"
