"""A branch of a trunk is, to the bit, the run that was told from its first step to decay there."""

import json
import re
import shutil
import signal
import time

import psutil
import pytest
import torch

from tests.helpers import ranks as launched
from tests.helpers.plain_training import SETTINGS, Unheard, pretraining, small_store
from tests.helpers.ranks import losses
from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.common.exit_status import EXIT_STOPPED, EXIT_USER_ERROR

TRUNK = ["train.schedule=constant", "train.keep_steps=[8]"]
DECAY = ["train.schedule=wsd", "train.steps=12", "train.decay_fraction=0.33"]  # it begins after step 8
SHARED = ["train.keep_checkpoints=1", "train.keep_finished=none", "train.ema_decay=0.9"]


@pytest.fixture
def pretrain(monkeypatch, capsys, store):
    return pretraining(monkeypatch, capsys, store)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def made(store, tmp_path_factory):
    """A folder with a trunk of 12 steps, and beside it the run that decays from the start of its settings."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        pretrain = pretraining(patch, Unheard(), store)
        for name, settings in (("trunk", TRUNK), ("whole", DECAY)):
            status, said = pretrain("--output", runs / name, *SHARED, *settings)
            assert status == 0, said
    return runs


def read(run):
    return json.loads((run / "summary.json").read_text())


def steps_saved(run):
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def assert_equal_to_whole(branch, whole):
    keys = ("molecules", "conformers", "atoms", "flops", "final", "best", "steps", "schedule", "settings_changes")
    for key in ("loss", "valid/loss", "grad_norm", "lr", "molecules", "flops"):
        of_whole = {step: value for step, value in losses(whole, key).items() if step > 8}
        assert losses(branch, key) == of_whole, key
    ours, theirs = load_pretrained(branch).state_dict(), load_pretrained(whole).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    ours, theirs = read(branch), read(whole)
    for key in keys:
        assert ours[key] == theirs[key], key


def test_the_trunk_keeps_what_branches_need_and_nothing_more(made):
    assert steps_saved(made / "trunk") == [8]
    summary = read(made / "trunk")
    assert (summary["schedule"], summary["keep_steps"], summary["branch"]) == ("constant", [8], None)


def test_a_branch_is_the_run_that_was_to_decay_from_the_start(pretrain, made, tmp_path):
    status, said = pretrain("--output", tmp_path / "branch", *SHARED, *DECAY, f"branch_from={made / 'trunk'}")
    assert status == 0, said
    assert f"branches off from {made / 'trunk'}/checkpoints/step-00000008 (step 8)" in said
    assert_equal_to_whole(tmp_path / "branch", made / "whole")
    assert min(losses(tmp_path / "branch", "loss")) == 9, "steps of the trunk were done again"
    told, trunk = read(tmp_path / "branch")["branch"], losses(made / "trunk", "flops")
    assert (told["trunk"], told["step"]) == (str(made / "trunk"), 8)
    assert (told["molecules"], told["own"]["molecules"], told["own"]["steps"]) == (64, 32, 4)
    assert told["flops"] == trunk[8]
    assert told["own"]["flops"] == read(made / "whole")["flops"] - trunk[8]
    assert steps_saved(made / "trunk") == [8]


def test_a_branch_goes_on_from_its_own_checkpoints_and_before_them_from_the_trunk(pretrain, made, tmp_path):
    trunk = shutil.copytree(made / "trunk", tmp_path / "trunk")
    command = ["--output", tmp_path / "branch", *SHARED, *DECAY, f"branch_from={trunk}"]

    def killed(step):
        raise RuntimeError("killed")  # nothing of this session is saved

    assert "killed" in pretrain(*command, spoilt=killed)[1]
    assert steps_saved(tmp_path / "branch") == []

    def stopped(step):
        if step == 1:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(1.0)  # a thread hears of it, which would otherwise race with the next step

    status, said = pretrain(*command, spoilt=stopped)
    assert (status, steps_saved(tmp_path / "branch")) == (EXIT_STOPPED, [10]), said
    shutil.rmtree(trunk)
    status, said = pretrain(*command)
    assert status == 0, said
    assert "branch/checkpoints/step-00000010 (step 10)" in said
    assert_equal_to_whole(tmp_path / "branch", made / "whole")
    assert read(tmp_path / "branch")["branch"]["step"] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.steps=15"], r"starts to decay after step 10, but the trunk {trunk} has no checkpoint of that step "
         r"\(only of step 8\)\. Either train the trunk up to there with train\.keep_steps=\[10\]"),
        (["train.learning_rate=2e-3"], "in step 1 the learning rate of .* was 0.0005, .* would have been 0.001"),
        (["train.warmup_steps=3"], "in step 1 the learning rate"),
        (["train.beta2=0.9"], r"other settings \(trunk → this run\):\n  train.beta2: 0.99 → 0.9"),
        (["seed=1"], r"other settings \(trunk → this run\):\n  seed: 0 → 1"),
        (["train.schedule=cosine"], "needs train.schedule=wsd; got cosine"),
        (["train.decay_fraction=1", "train.warmup_steps=0"], "this run decays from its first step"),
    ],
)  # fmt: skip
def test_a_branch_that_would_have_begun_otherwise_is_refused(pretrain, made, tmp_path, changes, message):
    settings = [*SHARED, *DECAY, *changes, f"branch_from={made / 'trunk'}"]
    status, said = pretrain("--output", tmp_path / "branch", *settings)
    assert status == EXIT_USER_ERROR
    assert re.search(message.replace("{trunk}", str(made / "trunk")), said), said


def test_a_trunk_that_is_made_longer_keeps_further_steps_and_says_which_it_has_missed(pretrain, made, tmp_path):
    trunk = shutil.copytree(made / "trunk", tmp_path / "trunk")
    more = ["train.schedule=constant", "train.keep_steps=[4,8,13]", "train.steps=14"]
    status, said = pretrain("--output", trunk, *SHARED, *more)
    assert status == 0, said
    assert "the run is already past step 4 and has no checkpoint of it" in said
    assert steps_saved(trunk) == [8, 13]
    command = ["--output", tmp_path / "branch", *SHARED, *DECAY, f"branch_from={trunk}"]
    status, said = pretrain(*command, "train.steps=19")
    assert status == 0, said
    assert read(tmp_path / "branch")["settings_changes"] == []
    assert min(losses(tmp_path / "branch", "loss")) == 14


def test_a_step_to_be_kept_is_kept_although_it_was_skipped(pretrain, tmp_path):
    status, said = pretrain("--output", tmp_path / "trunk", *SHARED, *TRUNK, spoilt=lambda step: step == 8)
    assert status == 0, said
    assert steps_saved(tmp_path / "trunk") == [8]


@pytest.mark.deepspeed
def test_a_branch_of_two_ranks_that_was_killed_goes_on_as_the_run_that_was_not(store, tmp_path):
    decay = ["train.schedule=wsd", "train.steps=28", "train.decay_fraction=0.72"]  # it begins after step 8
    shared = [*SETTINGS, *SHARED, "train.checkpoint_every=2", "zero.stage=3", "--data", store]
    # Until then the whole run is as good a trunk as one that holds its rate for ever.
    done = launched.pretrain(*shared, *decay, "train.keep_steps=[8]", "--output", tmp_path / "whole", ranks=2)
    assert done.returncode == 0, done.stdout
    command = [*shared, *decay, f"branch_from={tmp_path / 'whole'}", "--output", tmp_path / "branch"]
    process = launched.start(*command, ranks=2)
    deadline = time.monotonic() + 200
    while not (tmp_path / "branch" / "checkpoints" / "latest").is_file():
        assert time.monotonic() < deadline, "the branch did not start"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    ranks = psutil.Process(process.pid).children(recursive=True)
    for one in [*ranks, psutil.Process(process.pid)]:
        one.kill()
    psutil.wait_procs(ranks, timeout=60)
    process.communicate()
    assert not (tmp_path / "branch" / "summary.json").exists()
    done = launched.pretrain(*command, ranks=2)
    assert done.returncode == 0, done.stdout
    assert "goes on from" in done.stdout
    assert_equal_to_whole(tmp_path / "branch", tmp_path / "whole")
