"""Steps that go wrong are told to everybody, also to a program that asked for no messages."""

import torch

from tests.helpers.plain_training import OneRank, small_store
from unimol_scale.data.dataset import open_store_of
from unimol_scale.engine.incidents import Incidents
from unimol_scale.engine.log.run_log import RunLog
from unimol_scale.engine.optimizer_step import StepResult
from unimol_scale.engine.run.run_config import resolve
from unimol_scale.engine.run.run_progress import Progress


def test_spikes_and_skipped_steps_are_warnings_without_any_listener(tmp_path, caplog):
    store, run = small_store(tmp_path / "store"), tmp_path / "run"
    run.mkdir()
    config = resolve("0.03M", {"data": {"path": str(store)}, "output": str(run), "train": {"spike_window": 16}})
    split = open_store_of(config.data).split("train")
    incidents = Incidents(config, split, OneRank(rank=0, world_size=1, device=torch.device("cpu")))
    losses = [1.0 + 0.01 * (step % 2) for step in range(16)] + [1000.0, float("nan")]
    with RunLog(run, "run", 100, 0, ["jsonl"]) as log:
        for step, loss in enumerate(losses):
            result = StepResult(terms={"token": loss}, loss=loss, grad_norm=1.0, votes={}, suspects=(0, 3))
            assert not incidents.call_for_rollback(result, Progress(step=step), log)
    spike, skipped = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "step 16  warning: the loss has risen suddenly, to 1000" in spike
    assert "step 17  skipped: the loss is not finite" in skipped
