"""The engine trains whatever fulfils the protocol: here a model of a test, given to the trainer, without DeepSpeed."""

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.plain_model import PlainModel
from tests.helpers.plain_training import OneRank, small_store
from unimol_scale.common.metrics_file import read_metrics
from unimol_scale.common.run_files import METRICS_NAME, SUMMARY_NAME
from unimol_scale.data.dataset import DataConfig
from unimol_scale.engine import trainer
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.run.run_config import PretrainConfig, ZeroConfig
from unimol_scale.engine.run.stopping import StopRequest
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.engine.trainer import Trainer
from unimol_scale.model.presets import preset


class Watched(PlainModel):
    """Remembers what the engine has called."""

    called: set[str]

    def __init__(self, factory, config: PretrainConfig, ranks: Ranks) -> None:
        Watched.called = set()
        super().__init__(factory, config, ranks)

    def __getattribute__(self, name: str) -> object:
        if not name.startswith("_"):
            Watched.called.add(name)
        return super().__getattribute__(name)


def configure(store: Path, output: Path) -> PretrainConfig:
    train = TrainConfig(
        precision="fp32", steps=12, warmup_steps=2, learning_rate=1e-3, global_batch_size=8, log_every=1,
        checkpoint_every=4, validate_every=6, rehearse=False, ema_decay=0.9, side_by_side=1,
    )  # fmt: skip
    return PretrainConfig(
        size="0.03M", output=output, data=DataConfig(path=store, workers=0), model=preset("0.03M"), train=train,
        zero=ZeroConfig(stage=0),
    )  # fmt: skip


def test_the_trainer_trains_and_saves_a_model_that_is_no_deepspeed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "matmul_peak", lambda *_: 1e12)  # which takes seconds
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # cannot be imported
    config = configure(small_store(tmp_path / "store"), tmp_path / "run")
    ranks = OneRank(rank=0, world_size=1, device=torch.device("cpu"))
    with StopRequest() as stop:
        Trainer(config, ranks, shard=Watched).run(stop, resume=False)
    losses = [event["loss"] for event in read_metrics(config.output / METRICS_NAME).events if "loss" in event]
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    assert json.loads((config.output / SUMMARY_NAME).read_text())["final"]["valid/loss"] > 0
    assert len(list((config.output / "model").iterdir())) == 2
    assert {"module", "train", "forward", "backward", "step", "fragments", "ema_update", "averaged_weights"} <= (
        Watched.called
    )
