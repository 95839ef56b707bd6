"""What a run means when it is started again: it goes on, is left alone, or is refused, and what changed is kept."""

import json
import math
import shutil
import signal

import pytest
import yaml

from tests.helpers.plain_training import Unheard, pretraining, small_store, unfinish
from tests.helpers.ranks import losses
from unimol_scale.checkpoints.run.checkpoint_folder import content_hash
from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.common.exit_status import EXIT_STOPPED, EXIT_USER_ERROR
from unimol_scale.common.units import byte_size
from unimol_scale.scaling.runs.read_runs import read_runs


@pytest.fixture
def pretrain(monkeypatch, capsys, store):
    return pretraining(monkeypatch, capsys, store)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    """A finished run of 12 steps with all its checkpoints; copy it before anything is done to it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        status, said = pretraining(patch, Unheard(), store)("--output", run, "train.keep_finished=all")
    assert status == 0, said
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def read(run, name="summary.json"):
    return json.loads((run / name).read_text())


def steps_saved(run):
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def test_the_same_command_leaves_a_finished_run_alone(pretrain, run):
    before = (run / "summary.json").stat().st_mtime_ns
    # Where and how fast it is computed does not make it another run; nor do settings of what it does not learn.
    free = ["train.validate_every=2", "zero.stage=3", "data.workers=1", "objective.blend.noise_std=0.7"]
    status, said = pretrain("--output", run, *free)
    assert status == 0
    assert "already finished" in said
    assert (run / "summary.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["train.learning_rate=0.1"], "train.learning_rate: 0.001 → 0.1"),
        (["seed=7"], "seed: 0 → 7"),
        (["--size", "0.1M"], "model.atom_width: 16 → 48"),
        (["objective.denoise.noise_std=0.5"], "objective.denoise.noise_std: 0.2 → 0.5"),
        (["--objective", "blend"], "objective.name: denoise → blend"),
        (["train.ema_decay=0.9"], "train.ema_decay: none → 0.9"),
        (["train.optimizer=muon"], "train.optimizer: adamw → muon"),
        (["--data", "/nonexistent"], "/nonexistent"),
        (["train.steps=6"], "has done 12 steps, which is more than train.steps=6"),
        (["train.steps=18", "seed=7"], "seed: 0 → 7"),
    ],
)
def test_a_finished_run_is_not_passed_off_as_another(pretrain, run, change, said):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    status, text = pretrain("--output", run, *change)
    assert status == EXIT_USER_ERROR
    assert said in text
    assert {path: path.read_bytes() for path in before} == before


def test_a_finished_run_on_other_data_is_refused(pretrain, run, tmp_path):
    other = small_store(tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "seed": 1}))
    status, said = pretrain("--output", run, data=other)
    assert status == EXIT_USER_ERROR
    assert "data manifest SHA-256" in said


def test_more_steps_go_on_with_the_jump_said_and_the_history_kept(pretrain, run):
    status, said = pretrain("--output", run, "train.steps=18")
    assert status == 0
    # Linear from 1e-3 at step 2 to 0 at step 12, then at step 18.
    assert "train.steps: 12 → 18" in said
    assert "the learning rate goes from 1.000e-04 at step 12 to 3.750e-04 at step 13" in said
    assert read(run)["steps"] == 18
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["steps"] == 18
    assert list(losses(run, "loss")) == list(range(1, 19))
    assert read(run, "summary-step-00000012.json")["steps"] == 12
    assert load_pretrained(run / "model-step-00000012")
    (kept,) = [json.loads(line) for line in (run / "config_history.jsonl").read_text().splitlines()]
    assert kept["step"] == 12
    assert kept["changes"]["train.steps"] == [12, 18]
    _, notes = read_runs([run])
    assert len(notes) == 1
    assert "changed after step 12 (train.steps 12 → 18)" in notes[0]


def test_a_run_that_goes_on_is_unfinished_until_it_ends(pretrain, run):
    status, _ = pretrain("--output", run, "train.steps=18", "train.max_skipped=1", spoilt=lambda step: step == 3)
    assert status == EXIT_USER_ERROR
    assert not (run / "summary.json").exists()
    assert not (run / "model").exists()
    # None of the further steps was kept, so the run is still what it was.
    status, _ = pretrain("--output", run, "train.steps=12")
    assert status == 0
    assert read(run)["steps"] == 12
    assert load_pretrained(run)


def test_fewer_steps_than_are_done_end_nothing(pretrain, run):
    unfinish(run, 12)
    before = (run / "config.yaml").read_text()
    for steps in (4, 11):
        status, said = pretrain("--output", run, f"train.steps={steps}")
        assert status == EXIT_USER_ERROR
        assert f"has done 12 steps, which is more than train.steps={steps}" in said
    # As many steps, but of another schedule: none would be done with it.
    status, said = pretrain("--output", run, "train.learning_rate=0.1")
    assert status == EXIT_USER_ERROR
    assert "train.learning_rate: 0.001 → 0.1" in said
    assert not (run / "summary.json").exists()
    assert (run / "config.yaml").read_text() == before
    # A session that was killed after its last checkpoint has earned its summary.
    status, _ = pretrain("--output", run)
    assert status == 0
    assert read(run)["steps"] == 12
    assert not any(change["curve"] for change in read(run)["settings_changes"])


def test_a_schedule_cut_to_what_is_done_is_not_finished(pretrain, run):
    unfinish(run, 8)
    status, said = pretrain("--output", run, "train.steps=8")
    assert status == EXIT_USER_ERROR
    assert "train.steps: 12 → 8" in said
    assert not (run / "summary.json").exists()


def test_a_schedule_changed_on_the_way_is_said_kept_and_noted(pretrain, run):
    unfinish(run, 6)
    changed = ["train.learning_rate=1e-2", "train.beta2=0.95", "train.schedule=constant", "zero.stage=1"]
    status, said = pretrain("--output", run, *changed)
    assert status == 0
    for line in ("train.learning_rate: 0.001 → 0.01", "train.beta2: 0.99 → 0.95", "zero.stage: 0 → 1"):
        assert line in said
    assert "the learning rate goes from 7.000e-04 at step 6 to 1.000e-02 at step 7" in said
    (change,) = read(run)["settings_changes"]
    assert change["step"] == 6
    assert change["changes"]["train.learning_rate"] == [0.001, 0.01]
    assert set(change["curve"]) == {"train.learning_rate", "train.beta2", "train.schedule"}
    (note,) = read_runs([run])[1]
    assert "train.learning_rate 0.001 → 0.01" in note
    assert "zero.stage" not in note


def test_an_unchanged_resume_has_nothing_to_say(pretrain, run):
    unfinish(run, 6)
    status, said = pretrain("--output", run, "train.keep_finished=all")
    assert status == 0
    assert "settings changed" not in said
    assert not (run / "config_history.jsonl").exists()
    assert read_runs([run])[1] == []


def change_manifest(folder, change):
    """Rewrite a checkpoint as another version might have recorded it."""
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    del tree["sha256"]
    change(tree["meta"])
    path.write_text(json.dumps({**tree, "sha256": content_hash(tree)}))


def test_a_checkpoint_of_an_earlier_version_goes_on(pretrain, run, finished):
    """It knows no whole configuration, no changes, fewer settings, and may have been saved among skipped steps."""
    unfinish(run, 8)

    def earlier(meta):
        for key in ("config", "changes", "lowest"):
            del meta[key]
        for key in ("objective.denoise.noise_std", "model.kernel_max_distance", "data.hydrogens", "init_sha256"):
            del meta["settings"][key]
        del meta["model"]["kernel_max_distance"]
        # All objectives were recorded, and some that are no more.
        meta["settings"] |= {"objective.blend.noise_std": 0.9, "objective.blend.toy": 1, "objective.distill.toy": 2}
        meta["progress"]["skipped_in_a_row"] = 9

    change_manifest(run / "checkpoints" / "step-00000008", earlier)
    status, said = pretrain("--output", run, "train.max_skipped=3", spoilt=lambda step: step == 1)
    assert status == 0, said
    assert read(run)["steps"] == 12
    assert read(run)["settings_changes"] == [] or not read(run)["settings_changes"][0]["curve"]
    shutil.rmtree(run)
    shutil.copytree(finished, run)
    unfinish(run, 8)
    # Absent means default, and the default is not what is asked for now.
    change_manifest(run / "checkpoints" / "step-00000008", earlier)
    status, said = pretrain("--output", run, "objective.denoise.noise_std=0.3")
    assert status == EXIT_USER_ERROR
    assert "objective.denoise.noise_std: 0.2 → 0.3" in said
    assert "toy" not in said


def test_nothing_is_published_while_steps_are_skipped(pretrain, tmp_path):
    run = tmp_path / "run"
    often = ["train.checkpoint_every=2", "train.max_skipped=4"]
    # The weights after step 4 may be what all later losses come from, so their checkpoint is not published either.
    status, said = pretrain("--output", run, *often, spoilt=lambda step: step > 4)
    assert status == EXIT_USER_ERROR
    assert "4 steps in a row were skipped" in said
    assert steps_saved(run) == [2]
    # Every later start has the whole patience again, and gets to the end when the cause is gone.
    status, said = pretrain("--output", run, *often, spoilt=lambda step: step in (1, 2, 3))
    assert status == 0, said
    assert read(run)["skipped"] == 3


def test_a_checkpoint_that_was_due_among_skipped_steps_is_saved_after_them(pretrain, tmp_path):
    run = tmp_path / "run"
    status, said = pretrain("--output", run, "train.keep_finished=all", spoilt=lambda step: step in (4, 5))
    assert status == 0, said
    assert "step 4  checkpoint saved" not in said
    assert "step 6  checkpoint saved" in said


def test_a_signal_among_skipped_steps_waits_for_a_sound_one(pretrain, tmp_path):
    run = tmp_path / "run"

    def spoilt(step):
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return step in (4, 5, 6)

    status, said = pretrain("--output", run, spoilt=spoilt)
    assert status == EXIT_STOPPED
    assert "step 7  stopped (SIGTERM)" in said
    assert steps_saved(run) == [7]


def test_a_run_that_ends_with_a_skipped_step_is_finished(pretrain, tmp_path):
    run = tmp_path / "run"
    status, said = pretrain("--output", run, spoilt=lambda step: step == 12)
    assert status == 0, said
    assert (read(run)["steps"], read(run)["skipped"]) == (12, 1)
    assert math.isfinite(read(run)["final"]["valid/loss"])


def test_the_best_checkpoint_is_the_best_validation(pretrain, tmp_path):
    # At so large a rate the loss goes up and down; validations and checkpoints meet at every second validation only.
    settings = ["train.validate_every=3", "train.checkpoint_every=6", "train.warmup_steps=0"]
    settings += ["train.keep_checkpoints=1", "train.schedule=constant"]
    for rate in (0.5, 0.1, 0.6, 0.3):  # where the best one is depends on rounding, and so on the machine
        run = tmp_path / f"run-{rate}"
        status, said = pretrain("--output", run, *settings, f"train.learning_rate={rate}")
        assert status == 0, said
        validated = {step: loss for step, loss in losses(run, "valid/loss").items() if step}
        best = min(validated, key=validated.get)
        if best % 6:
            break
    assert best % 6, "the test needs a best validation between two checkpoints"
    assert (run / "checkpoints" / "best").read_text().strip() == f"step-{best:08d}"
    assert steps_saved(run) == [best, 12]
    assert load_pretrained(run / "checkpoints" / f"step-{best:08d}")


@pytest.mark.parametrize(("keep", "left"), [("all", [6, 8, 12]), ("last", [12]), ("none", [])])
def test_a_finished_run_keeps_the_checkpoints_that_are_asked_for(pretrain, tmp_path, keep, left):
    run = tmp_path / "run"
    status, said = pretrain("--output", run, f"train.keep_finished={keep}")
    assert status == 0
    assert steps_saved(run) == left
    assert not list((run / "checkpoints").glob("tmp-*"))
    size = sum(path.stat().st_size for path in run.glob("checkpoints/step-*/share-*"))
    assert f"{len(left)} kept, {byte_size(size)}" in said
    assert ("67 % of it optimizer states" in said) == bool(left)
    assert load_pretrained(run)
    if keep == "none":
        status, said = pretrain("--output", run, "train.steps=18")
        assert status == EXIT_USER_ERROR
        assert f"--init {run}" in said
        assert read(run)["steps"] == 12


def test_an_extension_goes_on_and_says_what_becomes_of_the_schedule(pretrain, run):
    # With the run's own settings where the command line has none; interrupted, then the same command again.
    with_the_rate = yaml.safe_load((run / "config.yaml").read_text())
    with_the_rate["train"]["beta2"] = 0.98
    (run / "config.yaml").write_text(yaml.safe_dump(with_the_rate))
    status, _ = pretrain("--output", run, "--extend", 6, "train.max_skipped=1", spoilt=lambda step: step == 5)
    assert status == EXIT_USER_ERROR
    assert steps_saved(run)[-1] == 12
    status, said = pretrain("--output", run, "--extend", 6)
    assert status == 0, said
    assert "--extend: the linear schedule, which ended at step 12, now ends at 18" in said
    assert "from 1.000e-04 at step 12 to 3.750e-04 at step 13" in said
    assert (read(run)["steps"], read(run)["extended_from"]) == (18, 12)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["extended_from"], config["train"]["beta2"]) == (12, 0.98)
    status, _ = pretrain("--output", run, "--extend", 2, "train.steps=18")
    assert status == 0
    assert (read(run)["steps"], read(run)["extended_from"]) == (20, 18)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--extend", 6, "--output", "nowhere"], "nowhere holds none"),
        (["--extend", 0, "--output", "nowhere"], "--extend must be at least 1"),
        (["--extend", 6], "--extend needs --output"),
        (["--extend", 6, "--init", "nowhere", "--output", "nowhere"], "give only one of them"),
        (["--extend", 6, "--no-resume", "--output", "nowhere"], "give only one of them"),
        (["--init", "nowhere", "--output", "new"], "nowhere"),
    ],
)
def test_what_can_not_be_extended_or_begun_is_refused(pretrain, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    status, text = pretrain(*arguments)
    assert status == EXIT_USER_ERROR
    assert said in text
    assert not (tmp_path / "new").exists()


def test_an_extension_contradicts_another_number_of_steps(pretrain, run):
    status, said = pretrain("--output", run, "--extend", 6, "train.steps=500")
    assert status == EXIT_USER_ERROR
    assert "from step 12 to step 18" in said


def test_a_run_begins_with_the_weights_of_another(pretrain, run, tmp_path):
    new = tmp_path / "new"
    arguments = ["--output", new, "--init", run, "train.steps=4"]
    status, said = pretrain(*arguments)
    assert status == 0, said
    assert "with a new optimizer and the whole schedule, warm-up included" in said
    # The score before the first step is the other run's last, and everything else is a new run's.
    assert losses(new, "valid/loss")[0] == pytest.approx(read(run)["final"]["valid/loss"], rel=1e-6)
    assert list(losses(new, "loss")) == [1, 2, 3, 4]
    assert losses(new, "lr")[1] == pytest.approx(5e-4)
    assert read(new)["molecules"] == 4 * 8
    assert read(new)["init"]["path"] == str(run)
    assert len(read(new)["init"]["sha256"]) == 64
    assert "started from the weights of" in read_runs([new])[1][0]
    # The same command finds it finished, even when those weights are gone; begun without them it is another run.
    shutil.rmtree(run)
    status, said = pretrain(*arguments)
    assert (status, "already finished" in said) == (0, True)
    status, said = pretrain("--output", new, "train.steps=4")
    assert status == EXIT_USER_ERROR
    assert "init_sha256: " in said


def test_another_objective_keeps_what_the_weights_have_and_draws_the_rest(pretrain, run, tmp_path):
    new = tmp_path / "new"
    weights = run / "checkpoints" / "step-00000008"
    arguments = ["--output", new, "--init", weights, "--objective", "blend", "train.ema_decay=0.9", "train.steps=2"]
    status, said = pretrain(*arguments)
    assert (status, "give model.edges=bond" in said) == (EXIT_USER_ERROR, True)  # blend implies another kind of model
    status, said = pretrain(*arguments, "model.edges=bond")
    assert status == 0, said
    assert "initialised at random: relation_heads" in said
    assert "not used: token_head" in said


def test_weights_of_another_model_are_refused_with_the_settings_that_differ(pretrain, run, tmp_path):
    status, said = pretrain("--output", tmp_path / "new", "--init", run, "--size", "0.1M")
    assert status == EXIT_USER_ERROR
    assert "model.atom_width: 16 → 48" in said
    assert not (tmp_path / "new").exists()


def test_a_run_that_was_begun_otherwise_does_not_take_other_weights(pretrain, run, finished):
    unfinish(run, 8)
    status, said = pretrain("--output", run, "--init", finished)
    assert status == EXIT_USER_ERROR
    assert "init_sha256: none → " in said
