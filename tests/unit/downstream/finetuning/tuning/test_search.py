"""A search alone: what is tried, what is given up, and that a stop changes nothing."""

import dataclasses
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_finetuning import fitting
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.tuning.search import Search
from unimol_scale.downstream.finetuning.tuning.space import SearchSpace
from unimol_scale.downstream.finetuning.tuning.trials import TunedSettings
from unimol_scale.downstream.registry import METRICS
from unimol_scale.errors import ConfigError, RunError


class Stopped(BaseException):
    """What a kill is to the search."""


def error_of(config, fold):
    """A model that is the better the nearer the rate is to 1e-4, and half as good at the virtual node."""
    distance = abs(config.train.learning_rate - 1e-4) / 1e-4
    return (1.0 + distance + 0.01 * fold) * (2.0 if config.pooling == "virtual_node" else 1.0)


@pytest.fixture
def search(settings, tmp_path):
    """Return a search of settings that are given as a rate of 1e-3."""

    def make(judge=error_of, journal="one.jsonl", seed=0, **changes):
        config = settings(train=fitting(learning_rate=1e-3, epochs=20), tune=14, **changes)
        space = SearchSpace(config=config, layers=8)
        return Search(
            space=space, folds=3, judge=judge, metric=METRICS["rmse"], journal=tmp_path / journal, name="x", seed=seed
        )

    return make


def test_the_given_settings_come_first_and_bad_ones_are_given_up_early(search):
    asked = []
    found = search(lambda config, fold: asked.append(fold) or error_of(config, fold)).run(14, "set")
    assert found[0].settings == TunedSettings.of(search().space.config)
    assert found[0].state == "complete"
    states = [trial.state for trial in found]
    assert states.count("pruned") >= 2
    assert len(asked) == sum(len(trial.scores) for trial in found) < 3 * 14
    best = search().best(found)
    assert found[best].mean == min(trial.mean for trial in found if trial.state == "complete")
    assert found[best].mean < found[0].mean
    assert len({trial.settings for trial in found}) == 14
    tried = [trial.settings for trial in found]
    assert {one.trained_layers for one in tried} <= {None, 4, 2}
    assert all(1e-5 <= one.learning_rate <= 1e-3 and 5 <= one.epochs <= 40 for one in tried)


def test_the_same_seed_tries_the_same_also_after_a_stop_and_another_one_does_not(search):
    whole = search(journal="whole.jsonl").run(9, "set")
    calls = []

    def stops(config, fold):
        calls.append(fold)
        if len(calls) in (2, 12, 17):  # in the first trial, and in two others
            raise Stopped
        return error_of(config, fold)

    for _ in range(3):
        with pytest.raises(Stopped):
            search(stops, journal="stopped.jsonl").run(9, "set")
    assert search(stops, journal="stopped.jsonl").run(9, "set") == whole
    assert search(lambda *_: pytest.fail("all is there"), journal="whole.jsonl").run(9, "set") == whole
    assert search(journal="whole.jsonl").run(11, "set")[:9] == whole
    assert search(journal="other.jsonl", seed=1).run(9, "set")[1:] != whole[1:]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("target", ["cut.jsonl", "tuned/cut.jsonl"])  # the second leads nowhere
def test_a_kill_in_the_middle_of_a_write_leaves_a_search_that_goes_on(search, tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    whole = search(journal="whole.jsonl").run(3, "set")
    search(journal="cut.jsonl").run(2, "set")
    Path("cut.jsonl.lock").symlink_to(target)  # as the killed process leaves it
    with Path("cut.jsonl").open("a") as journal:
        journal.write('{"op_code":4,"worker')
    monkeypatch.setattr("unimol_scale.downstream.finetuning.tuning.journal._LOCK_SECONDS", 3)
    assert search(journal="cut.jsonl").run(3, "set") == whole


def test_a_training_that_fails_is_passed_over_unless_all_do(search):
    def fails(config, fold):
        if config.pooling == "mean":
            raise RunError("the loss is not finite")
        return error_of(config, fold)

    found = search(fails).run(8, "set")
    assert found[0].state == "failed"
    assert found[search().best(found)].settings.pooling == "virtual_node"
    always = search(fails, journal="always.jsonl", tune_over=("dropout",))
    with pytest.raises(RunError, match="all 3 trials of the search failed, the last one with: the loss is not finite"):
        always.run(3, "set")


def test_without_optuna_the_error_names_the_extra_before_data_is_read(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr("unimol_scale.downstream.finetuning.problem.prepare_problems.load_rows", None)
    with pytest.raises(ConfigError, match=r"pip install 'unimol-scale\[tune\]'"):
        finetune(settings(tune=2, inputs="2d"))


def test_only_what_was_asked_for_is_searched_and_what_cannot_be_is_refused(search, settings):
    few = search(tune_over=("dropout", "epochs"))
    given = TunedSettings.of(few.space.config)
    for trial in few.run(5, "set"):
        assert dataclasses.replace(trial.settings, dropout=given.dropout, epochs=given.epochs) == given
    probe = SearchSpace(config=settings(train=fitting(probe="mlp"), tune=2), layers=8)
    assert set(probe.searched) == {"learning_rate", "epochs", "dropout", "pooling"}
    assert probe.poolings == ("mean", "virtual_node", "layers")
    assert few.space.poolings == ("mean", "virtual_node")  # as before, so that a search of an earlier version goes on
    with pytest.raises(ConfigError, match="pooling is the only setting of a linear probe to search"):
        settings(train=fitting(probe="linear"), seeds=1, tune=2, tune_over=("dropout",))
    with pytest.raises(ConfigError, match="tune_folds must be at least 2"):
        settings(tune=2, tune_folds=1)
