import dataclasses
import itertools

import pytest

from unimol_scale.config import read_settings, to_tree, to_yaml
from unimol_scale.engine.run.resume import all_settings, changed_settings
from unimol_scale.engine.run.run_config import PretrainConfig, resolve
from unimol_scale.engine.run.schedule import learning_rate
from unimol_scale.engine.run.settings_changes import settings_in
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.errors import ConfigError, StoreError
from unimol_scale.objectives.denoise import DenoiseConfig

FLAGS = {"data": {"path": "store"}}


def test_later_settings_win_over_earlier_ones(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {steps: 50, warmup_steps: 5}\nobjective: {denoise: {noise_std: 0.1}}\nseed: 3\n")
    config = resolve(
        "0.1M", *read_settings(file, {**FLAGS, "output": "here"}, ["train.steps=70", "model.pair_type=chirality"])
    )
    assert config.train.steps == 70
    assert config.train.warmup_steps == 5
    assert config.objective.denoise.noise_std == 0.1
    assert config.seed == 3
    assert config.model.pair_type == "chirality"
    assert config.model.layers == 2
    assert config.name == "here"


def test_the_resolved_file_reads_back_to_the_same_run(tmp_path):
    config = resolve(
        "0.2M", *read_settings(None, FLAGS, ["train.steps=10", "train.warmup_steps=1", "train.learning_rate=1e-3"])
    )
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert resolve("0.2M", *read_settings(file, {}, [])) == config


def test_the_command_that_began_a_run_goes_on_with_it_although_a_default_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(DenoiseConfig, "FORMER_DEFAULTS", {"noise_std": 0.3, "mask_fraction": 0.15}, raising=False)

    def resolved(*assignments):
        flags = {**FLAGS, "output": str(tmp_path)}
        return resolve("0.1M", *read_settings(None, flags, ["train.warmup_steps=0", *assignments]))

    def changed(now):
        return changed_settings(settings_in(tmp_path), all_settings(now))

    today = resolved()
    assert today.objective.denoise.noise_std == 0.2
    recorded = to_tree(today)
    del recorded["objective"]["denoise"]["noise_std"]
    (tmp_path / "config.yaml").write_text(to_yaml(recorded))
    assert resolved().objective.denoise.noise_std == 0.3
    assert not changed(resolved())
    # What is asked for counts, and what another version recorded.
    assert changed(resolved("objective.denoise.noise_std=0.2")) == {"objective.denoise.noise_std": (0.3, 0.2)}
    (tmp_path / "config.yaml").write_text(to_yaml(today))
    assert resolved() == today
    (tmp_path / "config.yaml").write_text("[")
    assert resolved() == today


def test_runs_that_hide_different_things_have_different_objectives():
    base = resolve("0.1M", *read_settings(None, FLAGS, ["train.warmup_steps=0"]))
    same = resolve("0.2M", *read_settings(None, FLAGS, ["train.warmup_steps=0", "train.learning_rate=1e-3"]))
    other = resolve("0.1M", *read_settings(None, FLAGS, ["train.warmup_steps=0", "objective.denoise.noise_std=0.3"]))
    assert base.objective_sha256 == same.objective_sha256 != other.objective_sha256


def test_a_run_records_where_its_store_is_and_not_from_where_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "zinc").mkdir(parents=True)
    (tmp_path / "data" / "zinc" / "manifest.json").write_text("{}")
    for flags in ({}, {"data": {"path": "data/zinc"}}):
        assert (
            resolve("0.1M", *read_settings(None, flags, ["train.warmup_steps=0"])).data.path == f"{tmp_path}/data/zinc"
        )
    flags = {"data": {"path": "s3://bucket/zinc"}}
    assert resolve("0.1M", *read_settings(None, flags, ["train.warmup_steps=0"])).data.path == "s3://bucket/zinc"


def test_several_stores_must_be_chosen_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "manifest.json").write_text("{}")
    with pytest.raises(StoreError, match="choose one with --data"):
        resolve("0.1M", *read_settings(None, {}, []))


def test_every_field_of_a_run_is_documented():
    for kind in (PretrainConfig, TrainConfig):
        for field in dataclasses.fields(kind):
            assert f"        {field.name}: " in kind.__doc__, field.name


def test_defaults_are_the_papers():
    tree = to_tree(TrainConfig())
    assert tree["learning_rate"] == 1e-4
    assert tree["global_batch_size"] == 1024
    assert (tree["beta1"], tree["beta2"], tree["weight_decay"], tree["gradient_clip"]) == (0.9, 0.99, 1e-4, 1.0)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_warms_up_peaks_and_decays(schedule):
    config = TrainConfig(steps=100, warmup_steps=10, learning_rate=2.0, schedule=schedule)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert rates[10] == pytest.approx(2.0)
    assert all(a < b for a, b in itertools.pairwise(rates[:10]))
    if schedule == "constant":
        assert rates[99] == 2.0
    else:
        assert rates[99] < 0.05
        assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize(("shape", "half"), [("linear", 0.5), ("1-sqrt", 1 - 0.5**0.5)])
def test_wsd_holds_the_rate_and_then_decays_to_zero(shape, half):
    config = TrainConfig(
        steps=100, warmup_steps=10, learning_rate=2.0, schedule="wsd", decay_fraction=0.3, decay_shape=shape
    )
    constant = TrainConfig(steps=70, warmup_steps=10, learning_rate=2.0, schedule="constant")
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[:70] == [learning_rate(step, constant) for step in range(70)]
    assert rates[70] == 2.0
    assert rates[85] == pytest.approx(2.0 * half)
    assert rates[100] == 0.0
    assert all(a > b for a, b in itertools.pairwise(rates[70:]))


def test_inverse_sqrt_falls_from_the_peak_and_does_not_depend_on_the_end():
    config = TrainConfig(steps=100, warmup_steps=10, learning_rate=2.0, schedule="inverse_sqrt")
    assert [learning_rate(step, config) for step in (9, 39, 99)] == pytest.approx([2.0, 1.0, 2.0 * 0.1**0.5])
    longer = dataclasses.replace(config, steps=200)
    assert [learning_rate(step, config) for step in range(100)] == [learning_rate(step, longer) for step in range(100)]


def test_bad_training_settings_are_refused():
    for settings, message in (
        ({"decay_fraction": 0.0}, "decay_fraction must be above 0"),
        ({"schedule": "wsd", "steps": 10, "warmup_steps": 9}, "a decay from step 8 on overlap"),
        ({"keep_steps": (3, 3)}, "without repeats"),
        ({"keep_steps": (11,)}, "from 1 to train.steps 10"),
    ):
        with pytest.raises(ConfigError, match=message):
            TrainConfig(**{"steps": 10, "warmup_steps": 0, **settings})
    with pytest.raises(ConfigError, match="a short run needs a short warm-up"):
        TrainConfig(steps=10, warmup_steps=20)
    with pytest.raises(ConfigError, match="learning_rate must be positive"):
        TrainConfig(learning_rate=0.0)
    with pytest.raises(ConfigError, match=r"train\.muon_tracks=pair needs"):
        TrainConfig(muon_tracks="pair")
    for settings in ({}, {"optimizer": "muon", "muon_tracks": "atom"}):
        with pytest.raises(ConfigError, match=r"train\.muon_pair_rate=0\.5 needs"):
            TrainConfig(muon_pair_rate=0.5, **settings)
    assert TrainConfig(optimizer="muon", muon_pair_rate=0.5).optimizers == "Muon (atom+pair, pair rate × 0.5) and AdamW"
    with pytest.raises(ConfigError, match=r"train\.muon_momentum must be in"):
        TrainConfig(optimizer="muon", muon_momentum=1.0)
    with pytest.raises(ConfigError, match=r"train\.muon_iterations must be at least 1"):
        TrainConfig(optimizer="muon", muon_iterations=0)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["train.steps=0"], "^command line: train.steps must be at least 1, got 0"),
        # Two settings disagree, and each is named where it was given.
        (["train.steps=20"], "^{file}:5: train.warmup_steps, command line: train.steps: train.warmup_steps 36 must be"),
        (["train.learning_rate=-1"], "^command line: train.learning_rate must be positive"),
        (["train.stepz=1"], "^command line: train.stepz: unknown key"),
        (["trane.steps=1"], "^command line: trane: unknown key 'trane'"),
        (["objective.blend.ratio=[1, two, 3]"], r"^command line: objective.blend.ratio\[1\]: expected a number"),
        (
            ["objective.mixture.denoise=2"],
            "^{file}:2: objective.name, command line: objective.mixture: objective.name is",
        ),
        (["model.heads=5"], "^command line: model.atom_width 48 must be a multiple of model.heads 5"),
        ([], "^{file}:6: train.validate_every must be at least 1, got 0"),
    ],
)
def test_a_wrong_value_is_named_where_it_was_given(tmp_path, assignments, message):
    file = tmp_path / "cpu.yaml"
    rhythm = 90 if assignments else 0
    file.write_text(
        "objective:\n  name: denoise\ntrain:\n  steps: 360\n  warmup_steps: 36\n"
        f"  validate_every: {rhythm}\n  learning_rate: 1.0e-3\n"
    )
    with pytest.raises(ConfigError, match=message.format(file=file)):
        resolve("0.1M", *read_settings(file, FLAGS, assignments))


# Defaults of earlier versions.
SHY = [
    "objective.blend.symmetric=true",
    "objective.blend.show_degree=false",
    "objective.blend.atom_features=own",
    "objective.blend.heads=shared",
]


@pytest.mark.parametrize(
    ("settings", "sha256"),
    [
        ([], "0033341fa0abae3fdd387199df8a4fcde79e727734179f5f305c5d1f2e35c894"),
        (["objective.name=blend", *SHY], "2d4240fcaaa0c739c0856d6c147ae4bbadb0afcf520a5abf8901c593c1b8535f"),
        (
            ["objective.name=mixture", "objective.mixture.denoise=0.5", "objective.mixture.blend=0.5", *SHY],
            "1071fd60a930dcd553d995da8a29a17888d2e8d2ac97edc6099b75d409f52a3d",
        ),
        (
            [
                *("objective.name=distill", "objective.distill.teacher=t", "objective.distill.teacher_sha256=abc"),
                "objective.distill.teacher_inputs=full",  # as there was no such setting
                "objective.distill.normalise=layer_norm",
            ],
            "e31fc6b9c2986b838bb1e8de0e6cd9d3b041894d45f8a29ec8998eaca757f4c4",
        ),
    ],
)
def test_what_is_learnt_has_the_hash_that_it_has_always_had(settings: list[str], sha256: str) -> None:
    """The runs of a law are compared by it, and those of earlier versions are on disks."""
    assert resolve("0.1M", *read_settings(None, {"data": {"path": "store"}}, settings)).objective_sha256 == sha256
