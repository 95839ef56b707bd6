"""What is said of models that are trained at the same time."""

import logging

import pytest

from unimol_scale.downstream.finetuning.model.epochs import Epoch
from unimol_scale.downstream.finetuning.processes.models_progress import Length, ModelsProgress


@pytest.fixture
def shown(monkeypatch, caplog):
    """Return a progress of two models, the states of its bar, and its messages; every message is due."""
    caplog.set_level(logging.INFO, "unimol_scale")
    monkeypatch.setattr("unimol_scale.downstream.finetuning.processes.models_progress._LINE_SECONDS", 0.0)
    progress = ModelsProgress(
        "set", {"set, seed 0": Length(epochs=3, steps=7), "set, seed 1": Length(epochs=5, steps=7)}, "rmse"
    )
    states = []
    monkeypatch.setattr(progress._display, "update", lambda completed, **fields: states.append((completed, fields)))
    return progress, states, lambda: [record.getMessage() for record in caplog.records]


def test_the_bar_counts_epochs_of_all_models_and_is_full_at_the_end(shown):
    progress, states, messages = shown
    with progress:
        for epoch in range(1, 4):
            for name in ("set, seed 0", "set, seed 1"):
                for _ in range(7):
                    progress.step(name)
                progress.epoch(name, Epoch(epoch=epoch, loss=0.5, score=2.0 - epoch / 10, best=epoch))
        assert states[-1][0] == 6
        assert states[-1][1]["status"] == "best valid rmse: 1.7000 (seed 0, 3 epochs), 1.7000 (seed 1, 3 epochs)"
        progress.end("set, seed 0")
        progress.end("set, seed 1")  # early: two of its epochs are left out
    assert states[-1][0] == 8
    assert states[-1][1]["status"] == "2 of 2 models done"
    assert messages()[-1] == "[set, seed 1] done after 3 epochs  loss 0.5000  best valid rmse 1.7000 at epoch 3"


def test_an_epoch_that_is_no_better_leaves_the_best_score(shown):
    progress, _, messages = shown
    progress.epoch("set, seed 0", Epoch(epoch=1, loss=0.5, score=1.0, best=1))
    progress.epoch("set, seed 0", Epoch(epoch=2, loss=0.4, score=1.5, best=1))
    assert messages()[-1] == "[set] best valid rmse: 1.0000 (seed 0, 2 epochs)"
