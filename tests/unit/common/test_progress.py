"""Progress of a command: a bar on a terminal, lines elsewhere, and no terminal stops the work."""

import io
import sys

import pytest

from tests.helpers.terminal import Terminal
from unimol_scale.common import progress
from unimol_scale.common.command_output import shown_on_stderr
from unimol_scale.common.progress import StageProgress, track

CURSOR_OFF = "\x1b[?25l"


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in the place of standard error, in the test itself: pytest sets its own for each phase."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return terminal


def work() -> None:
    with shown_on_stderr():
        with StageProgress("embedding [b]", 100) as stage:
            stage.skip(40)
            stage.advance(10)
            stage.tick()
        assert list(track(range(3), 3, "verifying")) == [0, 1, 2]


def test_what_an_earlier_run_did_is_not_this_runs_speed() -> None:
    with StageProgress("embedding", 100) as stage:
        stage.skip(40)
        stage.advance(10)
        assert stage.advanced == 10


def test_on_a_terminal_there_are_bars_and_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    work()
    text = terminal.getvalue()
    assert CURSOR_OFF in text
    assert "embedding [b]" in text
    assert "50 of 100 molecules, " in text
    assert "verifying" in text
    assert "3/3" in text
    assert "done" not in text


def test_elsewhere_there_are_lines_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("embedding [b]: 50 of 100 molecules, ")
    assert line.endswith("/s, done")
    monkeypatch.setattr(progress.time, "monotonic", iter(range(0, 10_000, 6)).__next__)
    work()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == ["embedding [b]: 50 of 100 molecules"] * 2
    assert lines[0].endswith(" min left")
    assert lines[2:] == [f"verifying: {done} of 3" for done in (1, 2, 3)]


def test_a_stage_that_fails_is_not_said_to_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), shown_on_stderr(), StageProgress("embedding", 100):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""


def test_colours_that_are_forced_upon_a_file_make_no_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    work()
    assert CURSOR_OFF not in capsys.readouterr().err


def test_nothing_is_shown_where_no_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    with StageProgress("embedding", 100) as stage:
        stage.advance(10)
        stage.tick()
    assert terminal.getvalue() == ""


def test_a_terminal_that_goes_away_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with shown_on_stderr(), StageProgress("embedding", 100) as stage:
        terminal.gone = True
        stage.advance(10)
        stage.tick()
    assert stage.advanced == 10


def test_a_closed_standard_error_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    work()
