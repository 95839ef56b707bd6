"""Whole fine-tunings with a search: which rows it sees, what is reported, and what is predicted with."""

import dataclasses
import logging

import numpy as np
import pytest

import unimol_scale as us
from tests.helpers.tiny_finetuning import MOLECULES, fitting, write_table
from unimol_scale.downstream.finetuning import finetune as module
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import read_config
from unimol_scale.downstream.finetuning.predict import predict_molecules
from unimol_scale.downstream.finetuning.reporting.learning_curve import CURVE_FOLDER


@pytest.fixture
def quick(settings):
    """Return settings of a search that takes no time: a probe."""

    def made(**changes):
        common = {"train": fitting(probe="mlp", epochs=2), "inputs": "2d", "seeds": 1, "tune": 4, "tune_folds": 2}
        return settings(**{**common, **changes})

    return made


def test_test_rows_take_no_part_in_the_search(quick, place, tmp_path, monkeypatch):
    """Labels of the test rows that are nonsense change neither what is tried nor what is found."""
    seen = []
    judge = module.judge_settings
    monkeypatch.setattr(
        module, "judge_settings", lambda problem, forecast: seen.append(problem.split) or judge(problem, forecast)
    )
    first = finetune(quick())
    lines = (place / "set.csv").read_text().splitlines()
    test = sorted(set(range(30)) - {row for each in seen for part in each.parts.values() for row in part.tolist()})
    assert len(test) == first.split_sizes["test"]
    for row in test:
        smiles, size, aromatic = lines[row + 1].split(",")
        lines[row + 1] = f"{smiles},{float(size) + 1000.0},{aromatic}"
    path = tmp_path / "nonsense.csv"
    path.write_text("\n".join(lines) + "\n")
    other = finetune(quick(data=path, output=tmp_path / "nonsense"))
    assert other.tuning[0].trials[0] == first.tuning[0].trials[0]
    assert other.seeds[0].test > 100.0


def test_report_and_results_say_what_was_tried_and_taken_and_the_folder_predicts(quick, place):
    config = quick(tune_over=("pooling", "dropout"))
    done = finetune(config)
    assert done == results.read(config.output)
    (found,) = done.tuning
    assert (len(found.trials), found.folds, found.rows) == (4, 2, 27)
    assert found.searched == ("pooling", "dropout")
    report = (config.output / "report.md").read_text()
    assert "## Search" in report
    assert report.count("(chosen)") == 1
    given_up = found.count("pruned") + found.count("failed")
    assert f"4 trials ({given_up} stopped early) by 2-fold cross-validation within the 27 training and" in report
    saved = read_config(config.output)
    assert saved.pooling == found.best.settings.pooling
    options = {"smiles_column": None, "skip_bad": False, "cache": place / "cache", "max_pairs": None}
    value = predict_molecules(list(MOLECULES), config.output, device_name="cpu", **options).value_SRL
    assert np.isfinite(value).all()
    assert finetune(dataclasses.replace(config, device="auto")) == done  # read, not computed


def test_a_learning_curve_has_the_settings_that_were_found_and_searches_no_more(quick):
    config = quick(tune=3, tune_over=("pooling",), learning_curve=True)
    done = finetune(config)
    half = config.output / CURVE_FOLDER / "labels-0.5"
    assert results.read(half).tuning == ()
    assert read_config(half).pooling == done.tuning[0].best.settings.pooling


def test_every_fold_of_a_cross_validation_has_a_search_and_a_pooling_of_its_own(quick, place):
    config = quick(split="random-kfold", folds=2, tune=3, tune_over=("pooling",), seeds=None)
    done = finetune(config)
    assert [each.fold for each in done.tuning] == list(done.folds)
    chosen = [each.best.settings.pooling for each in done.tuning]
    assert [member.pooling for member in read_config(config.output).members] == chosen


def test_python_takes_tune_and_goes_on_after_a_stop(place, tmp_path, monkeypatch):
    table = write_table(tmp_path / "set.csv", size=[float(len(text)) for text in MOLECULES])
    call = {
        "target": "size", "output": tmp_path / "ft", "cache": place / "cache", "split": "random", "inputs": "2d",
        "seeds": 1, "baselines": False, "tune": 3, "settings": {"train.probe": "mlp", "train.epochs": 2},
    }  # fmt: skip
    judge, calls = module.judge_settings, []

    def stops(problem, forecast):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return judge(problem, forecast)

    monkeypatch.setattr(module, "judge_settings", stops)
    with pytest.raises(KeyboardInterrupt):
        us.finetune(str(place / "pretrained"), table, **call)
    fitted = us.finetune(str(place / "pretrained"), table, **call)
    assert len(fitted.result.tuning[0].trials) == 3
    assert len(calls) < 5 + 3 * 3  # the first trial was not tried again


def test_a_search_of_whole_models_says_how_much_it_trains_before_its_first_trial(quick, caplog):
    caplog.set_level(logging.INFO, "unimol_scale")
    finetune(quick(train=fitting(epochs=1), tune=1, tune_over=("pooling",)))
    messages = [record.getMessage() for record in caplog.records]
    amount = next(at for at, text in enumerate(messages) if text.startswith("searching: 1 trial of 2 models each"))
    assert amount < next(at for at, text in enumerate(messages) if "trial 1/1" in text)
    assert not any("epoch 1/1" in text for text in messages[:amount])
