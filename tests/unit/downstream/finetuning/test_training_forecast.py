"""What a fine-tuning says of its length before it has trained a model."""

import dataclasses
import logging
from types import SimpleNamespace

import pytest

from tests.helpers.tiny_finetuning import fitting
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.problem import training_forecast
from unimol_scale.downstream.finetuning.problem.training_forecast import SearchAmount, TrainingAmount, TrainingForecast

AMOUNT = TrainingAmount(
    models=3, finished=0, train=902, valid=113, config=fitting(epochs=60, patience=20, batch_size=32)
)


@pytest.fixture
def messages(caplog):
    """Return what has been logged so far."""
    caplog.set_level(logging.INFO, "unimol_scale")
    return lambda: [record.getMessage() for record in caplog.records]


def forecast_of(amount, monkeypatch, seconds, steps):
    """Let so many steps pass, each of so many seconds, and the first of a minute."""
    now = [0.0]
    monkeypatch.setattr(training_forecast, "time", SimpleNamespace(monotonic=lambda: now[0]))
    forecast = TrainingForecast(amount)
    for number in range(steps):
        now[0] += seconds if number else 60.0
        forecast.step()


def test_the_amount_is_said_at_once_and_the_time_after_a_few_steps(messages, monkeypatch):
    forecast_of(AMOUNT, monkeypatch, 0.5, 7)
    assert messages() == [
        "training 3 models on 902 molecules, each for up to 60 epochs, fewer if 20 in a row bring no better "
        "validation score",
        "judging by 5 steps, an epoch takes about 15 s, and the 3 models take about 16 to 45 min on this machine",
    ]


def test_the_time_is_said_once_and_not_before_two_seconds_are_measured(messages, monkeypatch):
    forecast_of(AMOUNT, monkeypatch, 0.1, 21)
    assert len(messages()) == 1
    forecast_of(AMOUNT, monkeypatch, 0.1, 90)
    assert sum(text.startswith("judging by 20 steps") for text in messages()) == 1


def test_one_model_without_early_stopping_has_one_time(messages, monkeypatch):
    amount = dataclasses.replace(AMOUNT, models=1, finished=2, config=fitting(epochs=20, patience=20, batch_size=32))
    forecast_of(amount, monkeypatch, 0.5, 7)
    assert messages() == [
        "training 1 model (another 2 finished earlier) on 902 molecules, for up to 20 epochs",
        "judging by 5 steps, an epoch takes about 15 s, and the training takes about 5.0 min on this machine",
    ]


def test_a_search_says_its_amount_and_its_time(messages, monkeypatch):
    train = fitting(epochs=60, patience=20, batch_size=32)
    amount = SearchAmount(trials=4, finished=2, folds=3, train=601, valid=75, config=train)
    forecast_of(amount, monkeypatch, 0.5, 7)
    assert messages() == [
        "searching: 4 trials (another 2 finished earlier) of 3 models each, on about 601 molecules; with the settings "
        "as given, up to 60 epochs, fewer if 20 in a row bring no better validation score",
        "judging by 5 steps, an epoch takes about 10 s, and the search about 42 to 119 min on this machine, less if "
        "bad settings are stopped early",
    ]


def test_a_fine_tuning_says_how_much_it_trains_before_its_first_epoch(settings, messages):
    config = settings(inputs="2d", seeds=2, train=fitting(epochs=2), baselines=False)
    finetune(config)
    said = messages()
    amount = next(at for at, text in enumerate(said) if text.startswith("training 2 models on "))
    assert said[amount].endswith("molecules, each for up to 2 epochs")
    assert amount < next(at for at, text in enumerate(said) if "epoch 1/2" in text)


def test_models_that_are_finished_are_not_counted_and_a_probe_has_no_epochs(settings, messages):
    config = settings(inputs="2d", seeds=1, train=fitting(epochs=2), baselines=False)
    finetune(config)
    finetune(dataclasses.replace(config, seeds=2))
    assert any(text.startswith("training 1 model (another 1 finished earlier) on ") for text in messages())
    before = len(messages())
    finetune(settings(inputs="2d", seeds=1, train=fitting(probe="linear"), output=config.output / "probe"))
    assert not any(text.startswith("training") for text in messages()[before:])
