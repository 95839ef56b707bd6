"""Micro-batches computed side by side: the gradients of one after another, to the bit, in runs that stop and go on."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from tests.helpers.plain_model import PlainModel
from tests.helpers.plain_training import OneRank, small_store, unfinish
from unimol_scale.common.metrics_file import read_metrics
from unimol_scale.common.run_files import CONFIG_NAME, METRICS_NAME
from unimol_scale.data.dataset import DataConfig
from unimol_scale.engine import trainer
from unimol_scale.engine.planning import max_pairs
from unimol_scale.engine.planning.max_pairs import with_side_by_side, with_side_by_side_here
from unimol_scale.engine.run.run_config import PretrainConfig, ZeroConfig
from unimol_scale.engine.run.stopping import StopRequest
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.engine.side_by_side import SideBySide
from unimol_scale.engine.trainer import Trainer
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import preset
from unimol_scale.objectives.config import ObjectiveConfig

ALONE = OneRank(rank=0, world_size=1, device=torch.device("cpu"))


def configure(store: object, output: Path, *, stage=0, size="0.03M", objective="denoise", **train) -> PretrainConfig:
    settings = {
        "precision": "fp32", "steps": 12, "warmup_steps": 2, "learning_rate": 1e-3, "global_batch_size": 8,
        "log_every": 1, "checkpoint_every": 4, "validate_every": 6, "keep_finished": "all",
    }  # fmt: skip
    return PretrainConfig(
        size=size, output=output, data=DataConfig(path=str(store), workers=0), model=preset(size),
        objective=ObjectiveConfig(name=objective), train=TrainConfig(**settings | train), zero=ZeroConfig(stage=stage),
    )  # fmt: skip


class Toy(nn.Module):
    """A parameter that is used twice, one that no sample uses, and one that only some use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.both, self.unused, self.some = (nn.Parameter(torch.randn(300, 300)) for _ in range(3))

    def forward(self, sample: tuple[torch.Tensor, bool]) -> dict[str, torch.Tensor]:
        x, extra = sample
        y = torch.tanh(x @ self.both) @ self.both
        return {"loss": (y @ self.some if extra else y).square().sum()}


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_gradients_are_those_of_one_after_another_to_the_bit(at_once: int, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # an operation on several threads sums in another order
    model = PlainModel(Toy, configure(tmp_path, tmp_path), ALONE)
    # The first ones take longest: threads end in another order than they begin.
    samples = [(torch.randn(2000 // (number + 1), 300), number % 2 == 0) for number in range(7)]
    losses = []
    for sample in samples:
        loss = model.forward(sample)["loss"]
        model.backward(loss / 7, last=False)
        losses.append(loss.item())
    expected = [parameter.grad for parameter in model.module.parameters()]
    model.drop_gradients()
    side_by_side = SideBySide(model.module.parameters(), at_once)

    def loss_of(sample: tuple[torch.Tensor, bool]) -> tuple[torch.Tensor, float]:
        loss = model.module(sample)["loss"]
        return loss / 7, loss.item()

    found, (both, unused, some) = side_by_side(samples, loss_of)
    side_by_side.close()
    torch.set_num_threads(threads)
    assert found == losses
    assert torch.equal(both, expected[0])
    assert unused is None
    assert torch.equal(some, expected[2])


def test_micro_batches_share_the_threads() -> None:
    toy = Toy()
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        side_by_side = SideBySide(toy.parameters(), 2)
        samples = [(torch.randn(4, 300), True)] * 4
        found, _ = side_by_side(samples, lambda sample: (toy(sample)["loss"], torch.get_num_threads()))
        assert found == [2] * 4
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)


def test_a_micro_batch_that_fails_is_the_steps_error_and_leaves_no_gradient() -> None:
    toy = Toy()
    side_by_side = SideBySide(toy.parameters(), 2)
    samples = [(torch.randn(4, 300), True), (torch.randn(4, 7), True), (torch.randn(4, 300), True)]
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        side_by_side(samples, lambda sample: (toy(sample)["loss"], None))
    assert all(parameter.grad is None for parameter in toy.parameters())


def train(config: PretrainConfig, *, resume: bool = False) -> list[float]:
    with StopRequest() as stop:
        run = Trainer(config, ALONE, shard=PlainModel)
        run.run(stop, resume=resume)
        run.close()
    return [event["loss"] for event in read_metrics(config.output / METRICS_NAME).events if "loss" in event]


def test_a_run_learns_the_same_and_goes_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "matmul_peak", lambda *_: 1e12)  # which takes seconds
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    store = small_store(tmp_path / "store")
    one_by_one = train(configure(store, tmp_path / "one", side_by_side=1))
    config = configure(store, tmp_path / "two", side_by_side=2)
    two = train(config)
    assert two == pytest.approx(one_by_one, rel=1e-4)
    weights = sorted((tmp_path / "two/model").glob("*.safetensors"))[0].read_bytes()
    unfinish(config.output, 6)
    # Not said again: the batches are cut as they were.
    again = train(dataclasses.replace(config, train=dataclasses.replace(config.train, side_by_side=None)), resume=True)
    assert again[-6:] == two[-6:]
    assert sorted((tmp_path / "two/model").glob("*.safetensors"))[0].read_bytes() == weights


def test_a_run_that_does_not_say_uses_its_cores_and_keeps_their_number(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(max_pairs, "granted_cores", lambda ranks: 3)
    config = configure(tmp_path, tmp_path / "run")
    assert with_side_by_side_here(config, ALONE).train.side_by_side == 3
    config.output.mkdir()
    (config.output / CONFIG_NAME).write_text(yaml.safe_dump({"train": {"side_by_side": 2}}))
    assert with_side_by_side_here(config, ALONE).train.side_by_side == 2


@pytest.mark.parametrize(
    ("changes", "cuda", "number"),
    [
        ({}, False, 8),
        ({"global_batch_size": 4}, False, 2),  # of two ranks: a micro-batch has a molecule
        ({"side_by_side": 5}, False, 5),
        ({}, True, 1),
        ({"stage": 3}, False, 1),  # weights are shares
        ({"size": "42M"}, False, 1),  # dropout
        ({"objective": "somewhere.module:Objective"}, False, 1),  # may draw, for all that is known
    ],
)
def test_only_what_can_be_computed_side_by_side_is(tmp_path: Path, changes, cuda, number) -> None:
    config = configure(tmp_path, tmp_path, **{"global_batch_size": 64} | changes)
    assert with_side_by_side(config, 16, world_size=2, cuda=cuda).train.side_by_side == number


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"side_by_side": 0}, "train.side_by_side must be at least 1, got 0"),
        ({"side_by_side": 2, "stage": 3}, "needs whole weights on every rank; set zero.stage to 0, 1 or 2"),
        ({"side_by_side": 2, "size": "42M"}, "needs a model without dropout"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        configure(tmp_path, tmp_path, **changes)
