"""Pretraining as a whole: real molecules, real ranks, real kills."""

import json
import os
import signal
import time

import psutil
import pytest

from tests.helpers import ranks as launched
from unimol_scale.store.shards import open_store

pytestmark = pytest.mark.deepspeed
STEPS, SAVE_AT = 6, 3
SETTINGS = [
    "--size",
    "0.1M",
    "train.precision=fp32",
    f"train.steps={STEPS}",
    "train.warmup_steps=2",
    "train.learning_rate=1e-3",
    "train.global_batch_size=16",
    "train.log_every=1",
    f"train.checkpoint_every={SAVE_AT}",
    "train.validate_every=3",
    "data.workers=0",
]


@pytest.fixture(scope="module")
def uninterrupted(sample_store, tmp_path_factory):
    """A run of two ranks that nobody disturbed."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    done = launched.pretrain(*SETTINGS, "--data", sample_store, "--output", output, ranks=2)
    assert done.returncode == 0, done.stdout
    return output


def test_a_run_leaves_behind_what_others_read(uninterrupted, sample_store):
    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["steps"] == STEPS
    assert summary["molecules"] == STEPS * 16
    assert summary["unique_molecules"] == len(open_store(sample_store).split("train"))
    assert summary["world_size"] == 2
    assert summary["flops"] > 0
    assert set(summary["final"]) == {"valid/loss", "valid/loss/token", "valid/loss/coordinate", "valid/loss/distance"}
    assert (uninterrupted / "config.yaml").is_file()
    assert list((uninterrupted / "tensorboard").glob("events*"))
    assert list(launched.losses(uninterrupted, "loss")) == list(range(1, STEPS + 1))
    valid = launched.losses(uninterrupted, "valid/loss")
    assert list(valid) == [0, 3, 6]
    assert valid[6] < valid[0]


def test_one_rank_and_two_ranks_follow_the_same_losses(uninterrupted, sample_store, tmp_path):
    alone = launched.pretrain(*SETTINGS, "--data", sample_store, "--output", tmp_path / "alone", ranks=1)
    assert alone.returncode == 0, alone.stdout
    for key in ("loss", "valid/loss", "grad_norm"):
        two = launched.losses(uninterrupted, key)
        one = launched.losses(tmp_path / "alone", key)
        assert one == pytest.approx(two, rel=1e-4)
        assert len(one) >= 3


def test_deepspeed_starts_the_installed_command_by_its_module(uninterrupted, sample_store, tmp_path):
    run = [*SETTINGS, "--data", sample_store, "--output", tmp_path / "run"]
    done = launched.pretrain(*run, ranks=2, module=True, by_deepspeed=True)
    assert done.returncode == 0, done.stdout
    for key in ("loss", "valid/loss"):
        assert launched.losses(tmp_path / "run", key) == launched.losses(uninterrupted, key)
    # What all ranks refuse alike is said once.
    refused = launched.pretrain(*run, "train.learning_rate=2e-3", ranks=2, module=True, by_deepspeed=True)
    assert refused.returncode != 0
    assert refused.stdout.count("is finished, but with other settings") == 1


def test_a_killed_run_resumes_and_ends_like_an_undisturbed_one(uninterrupted, sample_store, tmp_path):
    arguments = [*SETTINGS, "--data", sample_store, "--output", tmp_path / "run"]
    process = launched.start(*arguments, ranks=2)
    latest = tmp_path / "run" / "checkpoints" / "latest"
    deadline = time.monotonic() + 120
    while not latest.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    ranks = psutil.Process(process.pid).children(recursive=True)
    for child in ranks:
        child.kill()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert latest.read_text().strip() == "step-00000003"
    assert not (tmp_path / "run" / "summary.json").exists()

    resumed = launched.pretrain(*arguments, ranks=2)
    assert resumed.returncode == 0, resumed.stdout
    assert "goes on from" in resumed.stdout
    for key in ("loss", "valid/loss", "grad_norm"):
        assert launched.losses(tmp_path / "run", key) == launched.losses(uninterrupted, key)

    again = launched.pretrain(*arguments, ranks=1)
    assert again.returncode == 0
    assert "already finished" in again.stdout


def test_bf16_under_stage_three_with_recomputed_layers_follows_fp32(uninterrupted, sample_store, tmp_path):
    half = ["train.precision=bf16", "model.checkpoint_every=1"]
    done = launched.pretrain(*SETTINGS, *half, "--data", sample_store, "--output", tmp_path / "bf16", ranks=2)
    assert done.returncode == 0, done.stdout
    single, mixed = launched.losses(uninterrupted, "loss"), launched.losses(tmp_path / "bf16", "loss")
    # Rounding to 8 bits moves the losses, and no more than that: the seed draws the same fp32 weights for both.
    assert mixed == pytest.approx(single, rel=0.05)
    assert mixed != single
    for term in ("coordinate", "distance"):  # geometry stays fp32
        key = f"loss/{term}"
        assert launched.losses(tmp_path / "bf16", key)[1] == pytest.approx(
            launched.losses(uninterrupted, key)[1], rel=0.02
        )


def test_a_rank_that_dies_takes_the_run_down(sample_store, tmp_path):
    arguments = [*SETTINGS, "--data", sample_store, "--output", tmp_path / "run", "train.steps=100000"]
    process = launched.start(*arguments, ranks=2)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "--local_rank=1" in p.cmdline()]
    assert len(workers) == 1
    workers[0].kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    assert not psutil.pid_exists(workers[0].pid)
    assert not (tmp_path / "run" / "summary.json").exists()
