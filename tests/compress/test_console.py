"""What the console writes is text, whatever a name holds."""

import io
import sys

import pytest

from compress.console import Console


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_line_break_in_a_message_begins_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    Console().warn("a\nerror: \x1b[31mb")
    assert capsys.readouterr().err == "WARNING: a\\nerror: \\x1b[31mb\n"


def test_a_progress_bar_shows_markup_and_escapes_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Console().progress("[red]a\x07\nb", 3) as progress:
        progress.update(3, "AP [bold]")
    written = terminal.getvalue()
    assert "[red]a\\x07\\nb" in written
    assert "AP [bold]" in written
    assert "\x07" not in written
