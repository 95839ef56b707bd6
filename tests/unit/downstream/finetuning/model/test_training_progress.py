"""What a fine-tuning shows of itself while it trains."""

import itertools
import sys
from types import SimpleNamespace

import pytest

from tests.helpers.terminal import Terminal
from unimol_scale.common.command_output import shown_on_stderr
from unimol_scale.downstream.finetuning.model import training_progress
from unimol_scale.downstream.finetuning.model.epochs import Epoch
from unimol_scale.downstream.finetuning.model.training_progress import EpochProgress


def train(epochs: int = 3) -> None:
    with shown_on_stderr(), EpochProgress("esol, seed 0", 10, "rmse", steps=4) as progress:
        for number in range(1, epochs + 1):
            progress.epoch(Epoch(epoch=number, loss=1.0 / number, score=2.0 / number, best=number))


def test_lines_tell_the_first_epoch_and_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    train()
    assert capsys.readouterr().err.splitlines() == [
        "[esol, seed 0] epoch 1/10  loss 1.0000  valid rmse 2.0000  best 2.0000 at epoch 1",
        "[esol, seed 0] done after 3 epochs  loss 0.3333  valid rmse 0.6667  best 0.6667 at epoch 3",
    ]


def test_a_terminal_gets_a_bar_with_the_time_left_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    train()
    last = terminal.getvalue().rstrip("\x1b[?25h\n").splitlines()[-1]
    for part in ("esol, seed 0", "3/10", "≤ 0:00:00", "loss 0.3333  valid rmse 0.6667  best 0.6667 at epoch 3"):
        assert part in last


def test_the_bar_moves_and_tells_the_time_left_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(training_progress, "time", SimpleNamespace(monotonic=itertools.count(0.0, 60.0).__next__))
    with shown_on_stderr(), EpochProgress("esol, seed 0", 10, "rmse", steps=4) as progress:
        progress.step()
    last = terminal.getvalue().rstrip("\x1b[?25h\n").splitlines()[-1]
    assert "0/10" in last
    assert "≤ 0:39:00" in last


def test_several_learning_rates_are_counted_on_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with shown_on_stderr(), EpochProgress("esol, seed 0", 10, "rmse", steps=4, rates=4) as progress:
        for number in (1, 2, 1):  # the first rate stops early
            progress.epoch(Epoch(epoch=number, loss=1.0, score=1.0, best=1))
    assert "11/40" in terminal.getvalue().rstrip("\x1b[?25h\n").splitlines()[-1]


def test_lines_name_the_learning_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_on_stderr(), EpochProgress("esol, seed 0", 10, "rmse", steps=4, rates=4) as progress:
        progress.epoch(Epoch(epoch=1, loss=1.0, score=2.0, best=1))
    assert capsys.readouterr().err.splitlines() == [
        "[esol, seed 0] learning rate 1 of 4, epoch 1/10  loss 1.0000  valid rmse 2.0000  best 2.0000 at epoch 1",
        "[esol, seed 0] done after 4 learning rates",
    ]
