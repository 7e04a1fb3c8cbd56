"""Signals during a training end it after the step."""

import os
import signal

import pytest

from compress.console import Console
from compress.training.interrupt import interruptible
from export.arguments import terminable

pytestmark = pytest.mark.usefixtures("foreground")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_first_signal_is_noted_with_a_message(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with terminable(), interruptible(Console()) as caught:
        os.kill(os.getpid(), number)
        assert caught == [number]
    assert capsys.readouterr().err.count("stopping after this step and saving") == 1


def test_another_signal_does_not_end_at_once_what_the_first_ends_soon() -> None:
    with interruptible(Console(quiet=True)) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert caught == [signal.SIGTERM, signal.SIGHUP]


def test_under_nohup_a_hangup_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(Console(quiet=True)) as caught:
            os.kill(os.getpid(), signal.SIGHUP)
            assert caught == []
    finally:
        signal.signal(signal.SIGHUP, before)
