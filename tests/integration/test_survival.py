"""What a run survives: signals, other ranks and stages, planted NaNs, dead loaders, spikes, a full disk."""

import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from tests.helpers import ranks as launched
from tests.helpers.store_samples import random_record, write_store
from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.common.exit_status import EXIT_STOPPED, EXIT_USER_ERROR
from unimol_scale.engine.run.run_folder import LOCK_NAME

pytestmark = pytest.mark.deepspeed
STEPS = 12
SETTINGS = [
    "--size", "0.03M", "train.precision=fp32", f"train.steps={STEPS}", "train.warmup_steps=2",
    "train.learning_rate=1e-3", "train.global_batch_size=16", "train.log_every=1", "train.checkpoint_every=4",
    "train.validate_every=6", "data.workers=0", "train.ema_decay=0.9", "train.keep_finished=all",
    "train.keep_checkpoints=4",  # those of steps 4, 8 and 12, and the best of step 6
]  # fmt: skip
# The same function at the same step, whatever the ranks and the stage, but for the order of sums.
SAME = pytest.approx


@pytest.fixture(scope="module")
def undisturbed(sample_store, tmp_path_factory):
    """A run of one rank at stage 3 that nobody disturbed."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    done = launched.pretrain(*SETTINGS, "--data", sample_store, "--output", output)
    assert done.returncode == 0, done.stdout
    return output


def wait_for_step(run: Path, step: int, process) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").is_file() and step in launched.losses(run, "loss"):
            return
        time.sleep(0.01)
    raise AssertionError(f"the run did not reach step {step}: {process.communicate()[0]}")


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


@pytest.fixture
def interruptible():
    """What a script starts in the background ignores Ctrl-C, and so does all that it starts; not here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_run_and_the_same_command_goes_on_with_the_same_losses(
    undisturbed, sample_store, tmp_path, number
):
    arguments = [*SETTINGS, "--data", sample_store, "--output", tmp_path / "run", "data.workers=1"]
    process = launched.start(*arguments)
    wait_for_step(tmp_path / "run", 2, process)
    os.killpg(process.pid, number)  # loader processes too, as a terminal does and a batch system
    output, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_STOPPED, output
    assert "Traceback" not in output
    stopped_at = max(launched.losses(tmp_path / "run", "loss"))
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text().strip() == f"step-{stopped_at:08d}"
    assert stopped_at < STEPS, "the signal came too late to test anything"
    resumed = launched.pretrain(*arguments)
    assert resumed.returncode == 0, resumed.stdout
    for key in ("loss", "valid/loss", "grad_norm"):
        assert launched.losses(tmp_path / "run", key) == launched.losses(undisturbed, key)


def test_ranks_save_and_end_when_their_launcher_is_told_to_end(sample_store, tmp_path):
    # deepspeed ends at SIGTERM without a word to its ranks, which trained on and kept the port.
    arguments = [*SETTINGS, "train.steps=100000", "--data", sample_store, "--output", tmp_path / "run"]
    process = launched.start(*arguments, ranks=2)
    wait_for_step(tmp_path / "run", 1, process)
    process.terminate()
    output, _ = process.communicate(timeout=120)  # the ranks hold the other end of its output
    assert "stopped (the launcher is gone)" in output
    stopped_at = max(launched.losses(tmp_path / "run", "loss"))
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text().strip() == f"step-{stopped_at:08d}"


@pytest.mark.parametrize(("ranks", "stage"), [(2, 1), (4, 3)])
def test_a_run_goes_on_with_other_ranks_and_another_stage_along_the_same_curve(
    undisturbed, sample_store, tmp_path, ranks, stage
):
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    for folder in (tmp_path / "run" / "checkpoints").glob("step-*"):
        if folder.name != "step-00000004":
            shutil.rmtree(folder)
    arguments = [*SETTINGS, f"zero.stage={stage}", "--data", sample_store, "--output", tmp_path / "run"]
    resumed = launched.pretrain(*arguments, ranks=ranks)
    assert resumed.returncode == 0, resumed.stdout
    assert "(step 4)" in resumed.stdout
    for key in ("loss", "valid/loss", "grad_norm"):
        assert launched.losses(tmp_path / "run", key) == SAME(launched.losses(undisturbed, key), rel=1e-5)
    assert summary(tmp_path / "run")["world_size"] == ranks


def test_a_run_with_muon_goes_on_with_other_ranks_and_another_stage_along_the_same_curve(sample_store, tmp_path):
    arguments = [*SETTINGS, "train.optimizer=muon", "--data", sample_store]
    done = launched.pretrain(*arguments, "zero.stage=2", "--output", tmp_path / "whole", ranks=2)
    assert done.returncode == 0, done.stdout
    assert "the optimizer is Muon (atom+pair) and AdamW" in done.stdout
    assert summary(tmp_path / "whole")["optimizer"] == "Muon (atom+pair) and AdamW"
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    for folder in (tmp_path / "run" / "checkpoints").glob("step-*"):
        if folder.name != "step-00000004":
            shutil.rmtree(folder)
    resumed = launched.pretrain(*arguments, "zero.stage=3", "--output", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stdout
    assert "(step 4)" in resumed.stdout
    for key in ("loss", "valid/loss", "grad_norm"):
        expected = launched.losses(tmp_path / "whole", key)
        assert launched.losses(tmp_path / "run", key) == SAME(expected, rel=1e-3)
    # Half of what is kept of a parameter of AdamW, a third of what is kept of Muon's: weight, mean, one momentum.
    share = float(resumed.stdout.split("% of it optimizer states")[0].split()[-1])
    assert 33 < share < 50


def test_the_best_checkpoint_is_kept_and_models_come_out_of_any(undisturbed):
    checkpoints = undisturbed / "checkpoints"
    assert (checkpoints / "latest").read_text().strip() == "step-00000012"
    assert (checkpoints / "best").read_text().strip() == "step-00000012"
    exported, saved = load_pretrained(undisturbed), load_pretrained(checkpoints / "step-00000012")
    for name, tensor in exported.state_dict().items():
        assert (tensor == saved.state_dict()[name]).all(), name


def test_a_checkpoint_of_other_settings_is_refused_with_the_difference_and_taken_when_told_to(
    undisturbed, sample_store, tmp_path
):
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    arguments = [*SETTINGS, "--data", sample_store, "--output", tmp_path / "run", "train.steps=13"]
    changed = ["objective.denoise.noise_std=0.3", "train.global_batch_size=8"]
    refused = launched.pretrain(*arguments, *changed)
    assert refused.returncode == EXIT_USER_ERROR
    assert "objective.denoise.noise_std: 0.2 → 0.3" in refused.stdout
    assert "train.global_batch_size: 16 → 8" in refused.stdout
    assert "--override" in refused.stdout
    taken = launched.pretrain(*arguments, *changed, "--override")
    assert taken.returncode == 0, taken.stdout
    assert max(launched.losses(tmp_path / "run", "loss")) == 13


def test_two_runs_do_not_share_a_folder_and_a_refused_one_leaves_no_trace(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    before = (tmp_path / "run" / "config.yaml").read_text()
    config = yaml.safe_load(before)
    arguments = [*SETTINGS, "--data", config["data"]["path"], "--output", tmp_path / "run", "train.steps=13"]
    with (tmp_path / "run" / LOCK_NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = launched.pretrain(*arguments)
    assert refused.returncode == EXIT_USER_ERROR
    assert "another process is training in" in refused.stdout
    changed = launched.pretrain(*arguments, "seed=1")
    assert changed.returncode == EXIT_USER_ERROR
    assert "seed: 0 → 1" in changed.stdout
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_a_sharded_run_begins_with_the_weights_of_another(undisturbed, sample_store, tmp_path):
    arguments = [
        *SETTINGS,
        "--data",
        sample_store,
        "--output",
        tmp_path / "new",
        "--init",
        undisturbed,
        "train.steps=2",
    ]
    done = launched.pretrain(*arguments, ranks=2)
    assert done.returncode == 0, done.stdout
    assert "with a new optimizer" in done.stdout
    first = launched.losses(tmp_path / "new", "valid/loss")[0]
    assert first == SAME(summary(undisturbed)["final"]["valid/loss"], rel=1e-5)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(undisturbed, sample_store, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    share = next((tmp_path / "run" / "checkpoints" / "step-00000012").glob("*.safetensors"))
    content = bytearray(share.read_bytes())
    content[len(content) // 2] ^= 1
    share.write_bytes(content)
    resumed = launched.pretrain(*SETTINGS, "--data", sample_store, "--output", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stdout
    assert "skipped a damaged checkpoint" in resumed.stdout
    assert share.name in resumed.stdout
    assert launched.losses(tmp_path / "run", "loss") == launched.losses(undisturbed, "loss")


@pytest.fixture(scope="module")
def store_with_a_nan(tmp_path_factory):
    """A store of 32 molecules of which the one numbered 7 has a coordinate that is not a number: a disk that lies."""
    records = [random_record(number, max_conformers=1) for number in range(36)]
    planted = np.float32(1234.5)
    records[7].coordinates[0, 0, 0] = planted
    store = write_store(
        tmp_path_factory.mktemp("nan") / "store", records[:32], records[32:], coordinate_scale=None, shard_rows=16
    )
    shard = store.path / store.manifest.splits["train"].shards[0].file
    content = shard.read_bytes()
    assert content.count(planted.tobytes()) == 1
    shard.write_bytes(content.replace(planted.tobytes(), np.float32(np.nan).tobytes()))
    return store.path


def test_a_molecule_that_is_no_number_costs_its_steps_and_is_named(store_with_a_nan, tmp_path):
    arguments = [*SETTINGS, "--data", store_with_a_nan, "--output", tmp_path / "run", "data.max_pairs=400"]
    done = launched.pretrain(*arguments, ranks=2)
    assert done.returncode == 0, done.stdout
    # Two steps are an epoch, so one of two meets it; now and then it is shown flat, without its coordinates.
    skipped = summary(tmp_path / "run")["skipped"]
    assert 3 <= skipped <= STEPS // 2
    records = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert len(records) == skipped
    for record in records:
        assert record["not_finite"] == "loss"
        assert "molecule-7" in record["ids"]
        assert len(record["ids"]) < 16, "only the micro-batch it was in is suspect"
    losses = launched.losses(tmp_path / "run", "loss")
    assert sum(value is None for value in losses.values()) == skipped
    assert np.isfinite(summary(tmp_path / "run")["final"]["valid/loss"])


def test_too_many_skipped_steps_in_a_row_stop_the_run(store_with_a_nan, tmp_path):
    arguments = [
        *SETTINGS, "--data", store_with_a_nan, "--output", tmp_path / "run",
        "train.global_batch_size=32", "train.max_skipped=3",
    ]  # fmt: skip
    stopped = launched.pretrain(*arguments)
    assert stopped.returncode == EXIT_USER_ERROR
    assert "3 steps in a row were skipped" in stopped.stdout
    assert "molecule-7" in stopped.stdout


def test_a_sudden_rise_of_the_loss_sends_the_run_back_and_past_it(sample_store, tmp_path):
    # With so small a factor the first rise counts as a spike.
    arguments = [
        *SETTINGS, "--data", sample_store, "--output", tmp_path / "run", "train.spikes=rollback",
        "train.spike_window=16", "train.spike_factor=1e-6", "train.max_rollbacks=1", "train.steps=40",
    ]  # fmt: skip
    done = launched.pretrain(*arguments)
    assert done.returncode == EXIT_USER_ERROR, done.stdout
    assert "the loss has risen suddenly" in done.stdout
    assert "goes on from" in done.stdout
    assert "after 1 rollbacks" in done.stdout
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    after = [event for event in events if event["rollbacks"] == 1]
    assert after
    assert all(event["data_step"] > event["step"] for event in after)
    steps = [event["step"] for event in events if "loss" in event]
    assert steps == sorted(set(steps)), "what was rolled back is gone from the log"


def test_a_dead_loader_process_is_replaced_and_changes_nothing(undisturbed, sample_store, tmp_path):
    arguments = [*SETTINGS, "--data", sample_store, "--output", tmp_path / "run", "data.workers=1"]
    process = launched.start(*arguments)
    wait_for_step(tmp_path / "run", 1, process)
    for child in psutil.Process(process.pid).children(recursive=True):
        command = " ".join(child.cmdline())
        if "forkserver" in command and child.parent().pid != process.pid:
            child.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    for key in ("loss", "valid/loss"):
        assert launched.losses(tmp_path / "run", key) == launched.losses(undisturbed, key)


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(sample_store, small_disk):
    # Room for one checkpoint of 0.5 MB, the second one finds none.
    run = small_disk("900k") / "run"
    arguments = [*SETTINGS, "--data", sample_store, "--output", run, "train.steps=10"]
    failed = launched.pretrain(*arguments, ranks=2)
    assert failed.returncode == EXIT_USER_ERROR, failed.stdout
    assert "the checkpoint could not be saved; the run continues without it" in failed.stdout
    assert "No space left on device" in failed.stdout
    assert "run the same command again" in failed.stdout
    assert (run / "checkpoints" / "latest").read_text().strip() == "step-00000004"
    small_disk("100m")
    resumed = launched.pretrain(*arguments, ranks=2)
    assert resumed.returncode == 0, resumed.stdout
    assert "(step 4)" in resumed.stdout
    assert summary(run)["steps"] == 10
