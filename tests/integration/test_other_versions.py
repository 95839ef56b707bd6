"""Runs of yesterday's version under tomorrow's, and the other way round: the version of the checkout is both in turn.

Tomorrow's has a setting more in every group, and an objective more.
"""

import json
import shutil

import pytest
import yaml

from tests.helpers.plain_training import Unheard, pretraining, small_store, unfinish
from tests.helpers.ranks import losses
from tests.helpers.tomorrow import ToyConfig, add_setting
from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.cli.verbs.pretrain import EXIT_USER_ERROR
from unimol_scale.data.dataset import DataConfig
from unimol_scale.engine.run.run_config import PretrainConfig, ZeroConfig
from unimol_scale.engine.run.run_progress import Progress
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.model.accounting import Heads
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.blend import BlendConfig
from unimol_scale.objectives.config import ObjectiveConfig
from unimol_scale.objectives.denoise import DenoiseConfig
from unimol_scale.scaling.runs.read_runs import read_runs

SETTINGS = [
    (PretrainConfig, "tags", tuple[str, ...], ()),
    (ModelConfig, "gate", str, "none"),
    (Heads, "charge", bool, False),
    (DataConfig, "charges", bool, False),
    (DenoiseConfig, "charge_weight", float, 0.0),
    (BlendConfig, "charge_weight", float, 0.0),
    (ObjectiveConfig, "toy", ToyConfig, ToyConfig),
    (TrainConfig, "momentum_decay", float, 0.0),
    (ZeroConfig, "bucket_bytes", int, 1000),
    (Progress, "pauses", int, 0),
]


def become_tomorrow(patch, *only):
    """Give the checkout tomorrow's settings, or only those of some dataclasses."""
    for kind, name, hint, default in SETTINGS:
        if not only or kind in only:
            add_setting(patch, kind, name, hint, default)


@pytest.fixture
def tomorrow(monkeypatch):
    become_tomorrow(monkeypatch)


@pytest.fixture
def pretrain(monkeypatch, capsys, store):
    return pretraining(monkeypatch, capsys, store)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    """A finished run of today's version, with all its checkpoints."""
    return train(store, tmp_path_factory.mktemp("runs") / "today")


def train(store, run, *only):
    """Train a run with a version that is tomorrow's in some dataclasses."""
    with pytest.MonkeyPatch.context() as patch:
        if only:
            become_tomorrow(patch, *only)
        status, said = pretraining(patch, Unheard(), store)("--output", run, "train.keep_finished=all")
    assert status == 0, said
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


@pytest.mark.usefixtures("tomorrow")
def test_yesterdays_run_goes_on_with_the_losses_that_it_would_have_had(pretrain, run, finished):
    expected = summary_of(run)
    unfinish(run, 8)
    status, said = pretrain("--output", run, "train.keep_finished=all")
    assert status == 0, said
    assert "settings changed" not in said
    assert losses(run, "loss") == losses(finished, "loss")
    assert summary_of(run)["settings_changes"] == []
    assert summary_of(run)["objective_sha256"] == expected["objective_sha256"]
    assert not (run / "config_history.jsonl").exists()
    assert load_pretrained(run).backbone.config.gate == "none"


@pytest.mark.usefixtures("tomorrow")
def test_yesterdays_finished_run_is_finished_extended_and_begun_with(pretrain, run, tmp_path):
    status, said = pretrain("--output", run)
    assert (status, "already finished" in said) == (0, True), said
    status, said = pretrain("--output", tmp_path / "new", "--init", run, "train.steps=2")
    assert status == 0, said
    status, said = pretrain("--output", run, "--extend", 2, "train.steps=14")
    assert status == 0, said
    assert summary_of(run)["steps"] == 14


@pytest.mark.usefixtures("tomorrow")
@pytest.mark.parametrize(
    "change",
    [
        "model.gate: none → sigmoid",
        "data.charges: False → True",
        "objective.denoise.charge_weight: 0.0 → 0.5",
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_setting_that_yesterdays_run_had_not_is_refused_where_it_is_not_its_default(
    pretrain, run, change, is_finished
):
    if not is_finished:
        unfinish(run, 8)
    key, _, change = change.partition(": ")
    status, said = pretrain("--output", run, f"{key}={change.rpartition(' ')[2]}")
    assert status == EXIT_USER_ERROR
    assert f"\n  {key}: {change}\n" in said
    assert said.count("→") == 2, "one line for the one difference"
    assert "hoose another --output" in said


@pytest.mark.usefixtures("tomorrow")
def test_settings_that_neither_learns_do_not_matter(pretrain, run):
    unfinish(run, 8)
    free = ["objective.toy.mask_fraction=0.5", "objective.blend.charge_weight=1", "zero.bucket_bytes=5"]
    status, said = pretrain("--output", run, *free)
    assert status == 0, said
    assert "zero.bucket_bytes: 1000 → 5" in said
    assert "objective" not in said.partition("settings changed")[2]


def test_runs_of_yesterday_and_tomorrow_share_a_law(store, run, tmp_path, monkeypatch, pretrain):
    later = train(store, tmp_path / "later", *(kind for kind, *_ in SETTINGS))
    later_summary = summary_of(later)
    (later / "summary.json").write_text(json.dumps({**later_summary, "seed": 1}))
    assert len(read_runs([run, later])[0]) == 2
    become_tomorrow(monkeypatch)
    other = tmp_path / "other"
    status, said = pretrain("--output", other, "objective.denoise.charge_weight=0.5", "seed=2", "train.steps=2")
    assert status == 0, said
    assert summary_of(other)["objective_sha256"] != later_summary["objective_sha256"]


def test_a_new_objective_that_a_run_does_not_learn_is_no_obstacle_to_todays_version(store, pretrain, tmp_path):
    run = train(store, tmp_path / "run", ObjectiveConfig)
    assert "toy" in yaml.safe_load((run / "config.yaml").read_text())["objective"]
    status, said = pretrain("--output", run)
    assert (status, "already finished" in said) == (0, True), said
    status, said = pretrain("--output", run, "--extend", 2)
    assert status == 0, said


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (ModelConfig, "model.gate: none"),
        (DenoiseConfig, "objective.denoise.charge_weight: 0.0"),
        (TrainConfig, "train.momentum_decay: 0.0"),
    ],
)
def test_what_a_newer_version_wrote_is_named_and_called_that(store, pretrain, tmp_path, kind, named):
    run = train(store, tmp_path / "run", kind)
    finished = ["--output", run], ["--output", run, "--extend", 2]
    for arguments in finished:
        status, said = pretrain(*arguments)
        assert status == EXIT_USER_ERROR
        assert f"{run / 'config.yaml'} was written by a newer version of unimol-scale" in said
        assert f"\n  {named}\nUpdate unimol-scale to continue with it, or choose another --output" in said
    unfinish(run, 8)
    status, said = pretrain("--output", run)
    assert status == EXIT_USER_ERROR
    assert "step-00000008 was written by a newer version of unimol-scale" in said
    assert f"\n  {named}\nUpdate unimol-scale to continue with it" in said
    if kind is not ModelConfig:  # the model itself is another then, whatever the user wants
        status, said = pretrain("--output", run, "--override")
        assert status == 0, said
        assert summary_of(run)["steps"] == 12


def test_a_model_and_counters_of_a_newer_version_are_named(store, pretrain, tmp_path):
    run = train(store, tmp_path / "run", ModelConfig)
    status, said = pretrain("--output", tmp_path / "new", "--init", run)
    assert status == EXIT_USER_ERROR
    assert "model.gate: unknown key 'gate', so a newer version of unimol-scale wrote this file" in said
    run = train(store, tmp_path / "counting", Progress)
    unfinish(run, 8)
    status, said = pretrain("--output", run)
    assert status == EXIT_USER_ERROR
    assert "pauses: unknown key 'pauses', so a newer version of unimol-scale wrote this file" in said
