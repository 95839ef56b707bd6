"""Pretraining inside the test's own process: the real command and trainer, one rank, torch's AdamW, no DeepSpeed."""

import shutil
from pathlib import Path

import torch

from tests.helpers.plain_model import PlainModel
from tests.helpers.store_samples import random_record, write_store
from unimol_scale.cli.verbs import pretrain
from unimol_scale.engine import pretraining as whole_run
from unimol_scale.engine import trainer
from unimol_scale.engine.parallel import ranks as parallel_ranks
from unimol_scale.engine.parallel.ranks import Ranks

SETTINGS = [
    "--size", "0.03M", "train.precision=fp32", "train.steps=12", "train.warmup_steps=2", "train.learning_rate=1e-3",
    "train.global_batch_size=8", "train.log_every=1", "train.checkpoint_every=4", "train.validate_every=6",
    "train.rehearse=false", "data.workers=0", "zero.stage=0",
    "train.side_by_side=1",  # whatever the cores: losses are spoilt in ``forward``, and sums have one order
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
    monkeypatch.setattr(whole_run, "leave_ranks", lambda: None)
    monkeypatch.setattr(parallel_ranks, "end_process", ended)
    monkeypatch.setattr(trainer, "DeepSpeedModel", PlainModel)
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
