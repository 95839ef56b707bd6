"""A checkpoint that cannot be saved is told to everybody, also to a program that asked for no messages."""

import logging

import torch

from tests.helpers.full_disk import files_no_larger_than
from tests.helpers.plain_training import OneRank
from tests.helpers.run_states import evenly, random_state
from unimol_scale.engine.checkpointing import RunCheckpoints
from unimol_scale.engine.log.run_log import RunLog
from unimol_scale.engine.run.train_config import TrainConfig


def test_a_checkpoint_that_cannot_be_saved_is_a_warning_without_any_listener(tmp_path, caplog):
    ranks = OneRank(rank=0, world_size=1, device=torch.device("cpu"))
    checkpoints = RunCheckpoints(tmp_path / "checkpoints", ranks, TrainConfig())
    (fragments,) = evenly(random_state({"weight": 1000}), 1)
    with RunLog(tmp_path, "run", 10, 0, ["jsonl"]) as log:
        with files_no_larger_than(1000):
            checkpoints.start_save(5, fragments, {}, log)
            assert checkpoints.finish_save(log)
        checkpoints.start_save(6, fragments, {}, log)
        assert not checkpoints.finish_save(log)
    checkpoints.join()
    (record,) = caplog.records  # what goes well is not heard
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("[run] step 5  warning: the checkpoint could not be saved")
