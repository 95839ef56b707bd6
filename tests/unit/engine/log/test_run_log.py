"""A run shows how far it is, and logs what tools read."""

import io
import json
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.full_disk import files_no_larger_than
from tests.helpers.terminal import Terminal
from unimol_scale.common.command_output import shown_on_stderr
from unimol_scale.engine.log.run_log import RunLog


def train_event(step, **more):
    return {
        "step": step,
        "molecules": 32 * step,
        "loss": 2.5 - 0.1 * step,
        "loss/token": 1.25,
        "lr": 1e-4,
        "grad_norm": 0.5,
        "molecules_per_second": 1234.5,
        "mfu": 0.42,
        "data_wait": 0.03,
        "memory_bytes": 10**9,
        "skipped": 0,
        **more,
    }


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scalars(folder):
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(point.step, point.value) for point in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_an_event_is_on_disk_when_the_call_returns(tmp_path):
    with RunLog(tmp_path, "run", 10, 0) as log:
        log.event(train_event(1))
        (event,) = metrics(tmp_path)
    assert event == {**train_event(1), "session": 1}


def test_tensorboard_shows_every_value_in_its_group(tmp_path):
    with RunLog(tmp_path, "run", 10, 0) as log:
        log.event({"step": 0, "molecules": 0, "valid/loss": 3.0, "valid/loss/token": 2.0})
        for step in (1, 2, 3):
            log.event(train_event(step))
    shown = scalars(tmp_path)
    assert [step for step, _ in shown["train/loss"]] == [1, 2, 3]
    assert [value for _, value in shown["train/loss"]] == pytest.approx([2.4, 2.3, 2.2])
    assert shown["valid/loss"] == [(0, 3.0)]
    expected = {"train/loss/token", "train/lr", "train/grad_norm", "train/skipped", "valid/loss/token"}
    expected |= {"speed/molecules_per_second", "speed/mfu", "speed/data_wait", "speed/memory_bytes"}
    assert expected < set(shown)
    assert "progress/molecules" in shown


def test_a_resumed_run_replaces_the_steps_it_does_again_in_both_logs(tmp_path):
    with RunLog(tmp_path, "run", 10, 0) as log:
        for step in (1, 2, 3, 4):
            log.event(train_event(step, loss=1.0))
    with RunLog(tmp_path, "run", 10, 2) as log:
        for step in (3, 4, 5):
            log.event(train_event(step, loss=2.0))
    assert [(e["step"], e["loss"], e["session"]) for e in metrics(tmp_path)] == [
        (1, 1.0, 1), (2, 1.0, 1), (3, 2.0, 2), (4, 2.0, 2), (5, 2.0, 2),
    ]  # fmt: skip
    assert scalars(tmp_path)["train/loss"] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_a_full_disk_stops_nothing_and_loses_nothing(tmp_path, capsys):
    with shown_on_stderr(), RunLog(tmp_path, "run", 200, 0) as log:
        with files_no_larger_than(3000):
            for step in range(1, 101):
                log.event(train_event(step))
                log.advance(step, train_event(step))
            assert len(metrics(tmp_path)) < 100
        log.event(train_event(101))
    assert [event["step"] for event in metrics(tmp_path)] == list(range(1, 102))
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == list(range(1, 102))
    assert capsys.readouterr().err.count("metrics.jsonl cannot be written") == 1


def test_without_a_listener_only_what_goes_wrong_is_heard(tmp_path, caplog):
    with RunLog(tmp_path, "run", 10, 0) as log:
        log.say("validation loss 1.0")
        log.warn("the disk is nearly full")
        log.event(train_event(1))
        with files_no_larger_than(0):
            log.event(train_event(2))
            log.draw()
    heard = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert heard[0] == ("WARNING", "[run] the disk is nearly full")
    for text in ("metrics.jsonl cannot be written", "the curves cannot be drawn"):
        assert any(level == "WARNING" and text in said for level, said in heard)
    assert not any("validation" in said for _, said in heard)


def test_without_a_terminal_there_are_plain_lines_now_and_then(tmp_path, capsys):
    with shown_on_stderr(), RunLog(tmp_path, "my-run", 50, 0) as log:
        for step in range(1, 51):
            log.advance(step, train_event(step), remaining=3661.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # the first, and the last
    assert lines[0] == (
        "[my-run] step 1/50  loss 2.4000  lr 1.00e-04  1,234 molecules/s  MFU 42.0%  data wait 3%  ETA 1:01:01"
    )
    assert "step 50/50" in lines[-1]


@pytest.mark.parametrize("width", [200, 80])
def test_on_a_terminal_there_is_one_line_whose_end_is_cut_first(tmp_path, monkeypatch, width):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    with shown_on_stderr(), RunLog(tmp_path, "run [b] {c}", 50, 10) as log:
        log.advance(11, train_event(11), remaining=90061.0)
        log.advance(12, None)
        log.say("a word of {warning} [bold]")
    text = terminal.getvalue()
    assert "a word of {warning} [bold]" in text
    last = text.rstrip("\x1b[?25h\n").splitlines()[-1]
    for part in ("run [b] {c}", "12/50", "ETA 1 d 1:01:01", "loss 1.4000"):
        assert part in last
    assert ("data wait 3%" in last) == (width == 200)


def test_a_closed_terminal_stops_nothing(tmp_path, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    with shown_on_stderr(), RunLog(tmp_path, "run", 5, 0) as log:
        log.say("is anybody there?")
        log.advance(5, train_event(5))
        log.event(train_event(5))
    assert len(metrics(tmp_path)) == 1


def test_the_curves_of_a_run_are_drawn_into_its_folder(tmp_path, capsys):
    with shown_on_stderr(), RunLog(tmp_path, "run", 5, 0) as log:
        log.event(train_event(1))
        with files_no_larger_than(2000):
            log.draw()
        assert "cannot be drawn" in capsys.readouterr().err
        assert not (tmp_path / "curve.png").exists()
        log.draw()
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_a_terminal_that_is_gone_at_the_end_stops_nothing(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with shown_on_stderr(), RunLog(tmp_path, "run", 10, 0) as log:
        log.event(train_event(1))
        terminal.gone = True
    assert metrics(tmp_path)[-1]["step"] == 1
