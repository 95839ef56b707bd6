"""Messages are logged by the library, and printed where a command runs."""

import ast
import io
import logging
import sys
from pathlib import Path

import pytest
from rich.progress import TextColumn

from tests.helpers.terminal import Terminal
from unimol_scale.common.command_output import shown_on_stderr, terminal_bar
from unimol_scale.common.progress import StageProgress

REPOSITORY = Path(__file__).resolve().parents[3]
# What may print: commands, what commands print with, a loader process that ends, and what only a command runs.
PRINTING = ("unimol_scale/cli", "unimol_scale/common/command_output.py", "unimol_scale/data/loader.py")
PRINTING += ("unimol_scale/scaling/ladder/launch.py",)
MESSAGES = logging.getLogger("unimol_scale.somewhere")


def test_messages_of_both_packages_are_printed_inside_the_block_and_nowhere_else(capsys):
    MESSAGES.warning("before")
    with shown_on_stderr(), shown_on_stderr():
        MESSAGES.info("100 % of [bold]it[/bold]")
        logging.getLogger("conformer_gen.somewhere").info("molecules")
        MESSAGES.debug("detail")
    MESSAGES.warning("after")
    assert capsys.readouterr() == ("", "100 % of [bold]it[/bold]\nmolecules\n")


def test_a_command_leaves_the_loggers_as_they_were():
    logger = logging.getLogger("unimol_scale")
    before = (logger.level, logger.propagate, list(logger.handlers))
    with pytest.raises(ValueError, match="stop"), shown_on_stderr():
        raise ValueError("stop")
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_a_program_hears_the_messages_of_the_library_by_its_own_logging(caplog, capfd):
    with caplog.at_level(logging.INFO), StageProgress("embedding", 3) as progress:
        progress.advance(3)
    assert "embedding: 3 of 3 molecules" in caplog.text
    assert {record.name for record in caplog.records} == {"unimol_scale.common.progress"}
    assert capfd.readouterr() == ("", "")


def test_there_is_a_bar_on_the_terminal_of_a_command_only(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert terminal_bar(TextColumn("one")) is None
    with shown_on_stderr():
        assert terminal_bar(TextColumn("one")) is not None


def test_messages_come_out_above_the_newest_bar_in_one_line(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    line = "a message of {100 %} [bold] :smile: that is longer than the terminal is wide"
    with shown_on_stderr(), StageProgress("outer", 3), StageProgress("inner", 3):
        MESSAGES.info(line)
    assert line in terminal.getvalue()
    assert terminal.getvalue().index(line) < terminal.getvalue().rindex("inner")


def test_a_reader_that_is_gone_stops_nothing(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    with shown_on_stderr():
        MESSAGES.info("is anybody there?")


def test_nothing_but_commands_prints():
    for package in ("unimol_scale", "conformer_gen"):
        for path in (REPOSITORY / package).rglob("*.py"):
            if path.relative_to(REPOSITORY).as_posix().startswith(PRINTING):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                assert not (isinstance(called, ast.Name) and called.id in ("print", "Console")), f"{path}:{node.lineno}"
