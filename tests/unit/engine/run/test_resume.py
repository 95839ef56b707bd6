"""Which settings a checkpoint and the run that goes on from it must share, and what of their change is said."""

import dataclasses
import re
from pathlib import Path

import pytest

from unimol_scale.config import Origin, read_settings
from unimol_scale.engine.run.extension import resolve_extended
from unimol_scale.engine.run.resume import (
    all_settings,
    changed_settings,
    refuse_differences,
    refuse_other_states,
    settings_that_matter,
)
from unimol_scale.engine.run.run_config import PretrainConfig, resolve
from unimol_scale.engine.run.settings_changes import change_since, settings_in
from unimol_scale.errors import CheckpointError, ConfigError

FORMER_DEFAULTS = {"symmetric": True, "show_degree": False, "atom_features": "own", "heads": "shared"}
MIXTURE = ["objective.name=mixture", "objective.mixture.denoise=0.5", "objective.mixture.blend=0.5"]


def config_of(*assignments: str) -> PretrainConfig:
    return resolve(
        "0.1M",
        *read_settings(None, {"data": {"path": "store"}}, ["train.warmup_steps=0", "train.steps=100", *assignments]),
    )


def settings(*assignments: str) -> dict[str, object]:
    return settings_that_matter(config_of(*assignments), "hash")


def test_only_what_is_learnt_is_compared() -> None:
    assert settings() == settings("objective.blend.noise_std=0.9", "objective.distill.target=graph")
    assert changed_settings(settings(), settings("objective.denoise.noise_std=0.9"))
    assert changed_settings(settings(*MIXTURE), settings(*MIXTURE, "objective.blend.noise_std=0.9"))
    assert not changed_settings(settings(*MIXTURE), settings(*MIXTURE, "objective.distill.target=graph"))
    other_shares = [*MIXTURE[:1], "objective.mixture.denoise=0.25", "objective.mixture.blend=0.75"]
    assert set(changed_settings(settings(*MIXTURE), settings(*other_shares))) == {
        "objective.mixture.denoise",
        "objective.mixture.blend",
    }


@pytest.mark.parametrize("objective", [[], ["objective.name=blend"], MIXTURE])
def test_a_setting_that_did_not_exist_then_had_its_default(objective: list[str]) -> None:
    now = settings(*objective)
    # Each stands for a setting that a later version brings. Those of the size, say, have no default of their own.
    for key in ("model.kernel_max_distance", "model.normalize_by", "data.hydrogens", "data.labels", "train.ema_decay"):
        assert not changed_settings({name: value for name, value in now.items() if name != key}, now)
    then = {name: value for name, value in now.items() if not name.startswith(("objective.denoise", "objective.blend"))}
    # The default of some has changed since.
    assert {key: pair[0] for key, pair in changed_settings(then, now).items()} == {
        f"objective.blend.{name}": value for name, value in FORMER_DEFAULTS.items() if "objective.blend.heads" in now
    }
    now |= {key: pair[0] for key, pair in changed_settings(then, now).items()}
    assert not changed_settings(then, now)
    del then["model.kernel_max_distance"]
    with pytest.raises(CheckpointError, match=re.escape("model.kernel_max_distance: 9.0 → 7.0")):
        refuse_differences(then, {**now, "model.kernel_max_distance": 7.0}, Path("checkpoint"))


def test_another_optimizer_is_refused_by_name_and_has_no_use_for_the_states() -> None:
    before, muon = settings(), settings("train.optimizer=muon")
    del before["train.optimizer"], before["train.muon_tracks"]  # an earlier version had no others
    refuse_other_states(before, settings(), Path("checkpoint"))
    with pytest.raises(CheckpointError, match=r"train\.optimizer: adamw → muon"):
        refuse_differences(before, muon, Path("checkpoint"))
    with pytest.raises(CheckpointError, match=r"another optimizer.*\n.*adamw → muon\n.*--init"):
        refuse_other_states(before, muon, Path("checkpoint"))
    with pytest.raises(CheckpointError, match=re.escape("train.muon_tracks: atom+pair → pair")):
        refuse_other_states(muon, settings("train.optimizer=muon", "train.muon_tracks=pair"), Path("checkpoint"))
    # What Muon does in a step may change along a run, and is then said.
    assert not changed_settings(muon, settings("train.optimizer=muon", "train.muon_momentum=0.9"))
    change = change_since({**all_settings(config_of()), **before}, 50, config_of("train.muon_iterations=6"), "hash")
    assert change is not None
    assert change.curve == ("train.muon_iterations",)


def test_what_an_earlier_version_recorded_of_other_objectives_is_no_difference() -> None:
    before = {**settings(), "objective.blend.noise_std": 0.9, "objective.distill.toy": 1}
    assert not changed_settings(before, settings())
    # A setting of what is learnt that this version does not know is one.
    assert changed_settings({**before, "objective.denoise.toy": 1}, settings()) == {"objective.denoise.toy": (1, None)}


def test_a_change_tells_the_rates_on_both_sides_of_it() -> None:
    before = {**all_settings(config_of()), **settings()}
    change = change_since(before, 50, config_of("train.learning_rate=1e-3", "zero.stage=1"), "hash")
    assert change is not None
    assert set(change.changes) == {"train.learning_rate", "zero.stage"}
    assert change.curve == ("train.learning_rate",)
    assert change.rates == pytest.approx((1e-4 * 51 / 100, 1e-3 * 50 / 100))
    assert "from 5.100e-05 at step 50 to 5.000e-04 at step 51" in change.describe("linear", 100)
    unchanged_rate = change_since(before, 50, config_of("train.beta2=0.9"), "hash")
    assert unchanged_rate is not None
    assert unchanged_rate.rates is None
    assert change_since(before, 50, dataclasses.replace(config_of(), output=Path("moved")), "hash") is None


def test_a_store_that_was_recorded_as_it_was_given_is_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("data:\n  path: data/zinc\n")
    assert settings_in(tmp_path) == {"data.path": str(tmp_path / "data" / "zinc")}
    (tmp_path / "config.yaml").write_text("data:\n  path: s3://bucket/zinc\n")
    assert settings_in(tmp_path) == {"data.path": "s3://bucket/zinc"}


@pytest.mark.parametrize("recorded", ["null", "denoise"])
def test_a_damaged_record_of_what_is_learnt_is_named(tmp_path: Path, recorded: str) -> None:
    (tmp_path / "config.yaml").write_text(f"size: 0.1M\nobjective: {recorded}\ntrain: {{steps: 10}}\n")
    given = Origin(name="command line", given=frozenset({"output"}))
    with pytest.raises(ConfigError, match=r"config\.yaml: objective must hold a mapping"):
        resolve_extended(5, None, {"output": str(tmp_path)}, given)
