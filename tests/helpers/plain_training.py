"""Pretraining inside the test's own process: the real command and trainer, one rank, torch's AdamW, no DeepSpeed."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from tests.helpers.store_samples import random_record, write_store
from unimol_scale.cli.verbs import pretrain
from unimol_scale.engine import pretraining as whole_run
from unimol_scale.engine import trainer
from unimol_scale.engine.parallel import ranks as parallel_ranks
from unimol_scale.engine.parallel.deepspeed_state import ShardedState
from unimol_scale.engine.parallel.ranks import Ranks

SETTINGS = [
    "--size", "0.03M", "train.precision=fp32", "train.steps=12", "train.warmup_steps=2", "train.learning_rate=1e-3",
    "train.global_batch_size=8", "train.log_every=1", "train.checkpoint_every=4", "train.validate_every=6",
    "train.rehearse=false", "data.workers=0", "zero.stage=0",
]  # fmt: skip


def small_store(folder: Path) -> Path:
    """Write a store of 20 molecules that mean nothing."""
    records = [random_record(number, max_conformers=1) for number in range(20)]
    return write_store(folder, records[:16], records[16:]).path


class OneRank(Ranks):
    """The only process of a run; nobody is waited for."""

    def barrier(self) -> None:
        return None

    def sum(self, values):
        return dict(values)

    def add_up(self, values):
        return values

    def gather(self, value):
        return [value]


class PlainModel:
    """What the trainer needs of a ``ZeroModel``, at stage 0 in fp32."""

    spoilt: Callable[[int], bool]  # whether the loss of the n-th step of this session, from 1, is not finite

    def __init__(self, factory, config, ranks) -> None:
        torch.manual_seed(config.seed)
        self.module = factory()
        train = config.train
        self._adam = torch.optim.AdamW(
            self.module.parameters(), betas=(train.beta1, train.beta2), weight_decay=train.weight_decay
        )
        self._state = ShardedState(
            self.module, self._adam, self._adam, stage=0, rank=0, world_size=1, averaged=train.ema_decay is not None
        )
        self._steps = 0

    def train(self, mode):
        self.module.train(mode)

    def forward(self, sample):
        sums = self.module(sample)
        if self.module.training:
            self._steps += 1
            if self.spoilt(self._steps):
                sums = {name: value * math.nan for name, value in sums.items()}
        return sums

    def backward(self, loss, *, last):
        loss.backward()

    def step(self, learning_rate):
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0).item()
        self._adam.step()
        self.drop_gradients()
        return norm

    def drop_gradients(self):
        self._adam.zero_grad()

    @property
    def optimizer_steps(self):
        return self._state.optimizer_steps

    def fragments(self):
        return self._state.fragments()

    def restore(self, read, optimizer_steps):
        self._state.restore(read, optimizer_steps)

    def take_weights(self, read):
        self._state.take_weights(read)

    def ema_update(self, decay):
        self._state.ema_update(decay)

    def averaged_weights(self):
        return self._state.averaged_weights()


class Unheard:
    """In place of pytest's capture, which a fixture of the module cannot have."""

    def readouterr(self):
        return self

    out = err = ""


def unfinish(run: Path, step: int) -> None:
    """Leave of a run what it was after some step."""
    (run / "summary.json").unlink()
    shutil.rmtree(run / "model")
    for folder in (run / "checkpoints").glob("step-*"):
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)
    assert (run / "checkpoints" / f"step-{step:08d}").is_dir()


class Ended(Exception):  # noqa: N818
    """A rank ended its process with a status."""


def pretraining(monkeypatch, capsys, store: Path):
    """Return a function that starts the pretraining command and returns its status and all that it said.

    Its keyword ``spoilt`` says of which steps of the session the loss is not finite.
    """

    def ended(status):
        raise Ended(status)

    monkeypatch.setattr(whole_run, "start_ranks", lambda _: OneRank(rank=0, world_size=1, device=torch.device("cpu")))
    monkeypatch.setattr(whole_run, "part", lambda: None)
    monkeypatch.setattr(parallel_ranks, "abandon", ended)
    monkeypatch.setattr(trainer, "ZeroModel", PlainModel)
    monkeypatch.setattr(trainer, "matmul_peak", lambda *_: 1e12)
    monkeypatch.setattr(trainer, "prepare_host_memory", lambda *_: None)

    def run(*arguments, spoilt=lambda step: False, data=store):
        monkeypatch.setattr(PlainModel, "spoilt", staticmethod(spoilt), raising=False)
        try:
            status = pretrain.main([*SETTINGS, "--data", str(data), *map(str, arguments)])
        except Ended as end:
            (status,) = end.args
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run
