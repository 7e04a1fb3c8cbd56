import os
import signal

import pytest

from export.arguments import run_command, signals_for_this_process_alone, terminable


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
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("started")
        return 0

    assert run_command(work) == 130
    assert done == ["started"]
