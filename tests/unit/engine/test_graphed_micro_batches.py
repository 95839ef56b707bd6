"""Micro-batches in buckets and by graphs: numbers of plain training, in runs that stop and go on.

A CPU has no graphs. There, replaying a graph is doing its work again on the tensors that it would read and write.
"""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers.molecules import random_columns
from tests.helpers.plain_model import PlainModel
from tests.helpers.plain_training import OneRank, small_store, unfinish
from tests.helpers.random_keys import keys
from unimol_scale.common.metrics_file import read_metrics
from unimol_scale.common.run_files import METRICS_NAME
from unimol_scale.data.batch import collate
from unimol_scale.data.dataset import DataConfig
from unimol_scale.data.transfer import to_device
from unimol_scale.engine import graphed_micro_batches, trainer
from unimol_scale.engine.graphed_micro_batches import GraphedMicroBatches, capture_on
from unimol_scale.engine.run.run_config import PretrainConfig, ZeroConfig
from unimol_scale.engine.run.stopping import StopRequest
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.engine.trainer import Trainer
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import DROPOUTS, preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.config import ObjectiveConfig, build_objective

CPU = torch.device("cpu")
ALONE = OneRank(rank=0, world_size=1, device=CPU)


def do_again(work):
    return work


def warm_up_and_do_again(work):
    for _ in range(3):
        work()
    return work


def configure(store: object, output: Path, *, stage=0, buckets=True, checkpoint_every=0, **train) -> PretrainConfig:
    settings = {
        "precision": "fp32", "steps": 12, "warmup_steps": 2, "learning_rate": 1e-3, "global_batch_size": 8,
        "log_every": 1, "checkpoint_every": 4, "validate_every": 6, "keep_finished": "all", "side_by_side": 1,
        "rehearse": False,
    }  # fmt: skip
    return PretrainConfig(
        size="0.03M", output=output, data=DataConfig(path=str(store), workers=0, max_pairs=700, buckets=buckets),
        model=preset("0.03M", checkpoint_every=checkpoint_every), train=TrainConfig(**settings | train),
        zero=ZeroConfig(stage=stage),
    )  # fmt: skip


def micro_batches(objective, device=CPU):
    """Two shapes, each twice, of other molecules."""
    found = []
    molecules = [([5, 3], (2, 7)), ([9, 2, 4], (4, 11)), ([7], (2, 7)), ([11, 6], (4, 11))]
    for number, (sizes, shape) in enumerate(molecules):
        sample = objective.corrupt(collate(random_columns(sizes)), keys(range(len(sizes)), epoch=number))
        found.append(to_device(sample.padded(*shape), device))
    return found


def one_by_one(model, samples, weights, counts):
    """Sums of each, and all gradients, as the optimizer step computes them without graphs."""
    total: list = [None] * len(list(model.parameters()))
    found = []
    for slot, sample in enumerate(samples):
        torch.manual_seed(slot)
        sums = model(sample)
        gradients = torch.autograd.grad(total_loss(sums, counts, weights), list(model.parameters()), allow_unused=True)
        pairs = zip(total, gradients, strict=True)
        total = [new if old is None else old if new is None else old + new for old, new in pairs]
        found.append({name: value.detach() for name, value in sums.items()})
    return found, total


def parts(objective="denoise", **changes):
    config = preset("0.03M", **changes)
    built = build_objective(ObjectiveConfig(name=objective), config)
    torch.manual_seed(0)
    return built, built.build_model(config).train()


@pytest.mark.parametrize("capture", [do_again, warm_up_and_do_again])
@pytest.mark.parametrize("changes", [{}, dict.fromkeys(DROPOUTS, 0.2)])
def test_numbers_are_those_without_graphs_to_the_bit_and_two_shapes_have_two_graphs(capture, changes):
    objective, model = parts(**changes)
    graphed = GraphedMicroBatches(model, capture)
    samples = micro_batches(objective)
    for divisor in (7.0, 19.0):  # the counts of another step
        counts = {name: divisor + at for at, name in enumerate(objective.weights)}
        expected, right = one_by_one(model, samples, objective.weights, counts)
        found, gradients = graphed(samples, objective.weights, counts, torch.manual_seed)
        assert found == expected
        assert all(torch.equal(a, b) for a, b in zip(gradients, right, strict=True))
    assert graphed.shapes == 2


def test_a_parameter_that_no_loss_depends_on_has_no_gradient():
    objective, model = parts()
    model.spare = nn.Parameter(torch.ones(3))
    counts = dict.fromkeys(objective.weights, 3.0)
    _, gradients = GraphedMicroBatches(model, do_again)(
        micro_batches(objective), objective.weights, counts, torch.manual_seed
    )
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, gradient in zip(names, gradients, strict=True) if gradient is None] == ["spare"]


def test_weights_that_have_moved_are_seen_and_more_shapes_than_graphs_are_told(monkeypatch):
    objective, model = parts()
    graphed, counts = GraphedMicroBatches(model, do_again), dict.fromkeys(objective.weights, 3.0)
    samples = micro_batches(objective)
    graphed(samples, objective.weights, counts, torch.manual_seed)
    weight = model.backbone.atom_encoding.token.weight
    weight.data = weight.data * 2.0
    monkeypatch.setattr(graphed_micro_batches, "MOST_GRAPHS", 1)
    with pytest.warns(UserWarning, match="more than 1 shapes"):
        found, gradients = graphed(samples, objective.weights, counts, torch.manual_seed)
    expected, right = one_by_one(model, samples, objective.weights, counts)
    assert found == expected
    assert all(torch.equal(a, b) for a, b in zip(gradients, right, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are captured on a GPU")
def test_captured_graphs_give_the_numbers_without_graphs():
    device = torch.device("cuda")
    objective, model = parts(**dict.fromkeys(DROPOUTS, 0.2))
    model.to(device)
    graphed, counts = GraphedMicroBatches(model, capture_on(device)), dict.fromkeys(objective.weights, 3.0)
    samples = micro_batches(objective, device)
    for _ in range(2):
        expected, right = one_by_one(model, samples, objective.weights, counts)
        found, gradients = graphed(samples, objective.weights, counts, torch.manual_seed)
        for one, other in zip(found, expected, strict=True):
            for name, value in one.items():
                torch.testing.assert_close(value, other[name])
        for one, other in zip(gradients, right, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert graphed.shapes == 2


def test_a_device_without_graphs_is_named():
    with pytest.raises(ConfigError, match=r"cuda_graphs needs an NVIDIA GPU, and this rank computes on cpu"):
        capture_on(CPU)


def train(config: PretrainConfig, *, resume: bool = False) -> list[float]:
    with StopRequest() as stop:
        run = Trainer(config, ALONE, shard=PlainModel)
        run.run(stop, resume=resume)
        run.close()
    return [event["loss"] for event in read_metrics(config.output / METRICS_NAME).events if "loss" in event]


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(trainer, "matmul_peak", lambda *_: 1e12)  # which takes seconds
    monkeypatch.setitem(sys.modules, "deepspeed", None)


def weights_of(run: Path) -> bytes:
    return sorted((run / "model").glob("*.safetensors"))[0].read_bytes()


def test_a_run_in_buckets_learns_the_same_and_goes_on_to_the_bit(tmp_path, plain):
    store = small_store(tmp_path / "store")
    expected = train(configure(store, tmp_path / "plain", buckets=False))
    config = configure(store, tmp_path / "buckets")
    found = train(config)
    assert found == pytest.approx(expected, rel=1e-4)
    weights = weights_of(config.output)
    unfinish(config.output, 6)
    assert train(config, resume=True)[-6:] == found[-6:]
    assert weights_of(config.output) == weights
    # A run without buckets may go on with them.
    unfinish(tmp_path / "plain", 6)
    again = train(configure(store, tmp_path / "plain"), resume=True)
    assert again[-6:] == pytest.approx(expected[-6:], rel=1e-4)


def test_a_run_with_graphs_learns_the_same_to_the_bit_and_goes_on(tmp_path, plain, monkeypatch):
    store = small_store(tmp_path / "store")
    expected = train(configure(store, tmp_path / "eager"))
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU"):
        train(configure(store, tmp_path / "refused", cuda_graphs=True))
    monkeypatch.setattr(trainer, "capture_on", lambda _: do_again)
    config = configure(store, tmp_path / "graphed", cuda_graphs=True, rehearse=True)
    assert train(config) == expected
    assert weights_of(config.output) == weights_of(tmp_path / "eager")
    unfinish(config.output, 6)
    eager = dataclasses.replace(config, train=dataclasses.replace(config.train, cuda_graphs=False))
    assert train(eager, resume=True) == expected
    assert weights_of(config.output) == weights_of(tmp_path / "eager")


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"buckets": False}, "needs data.buckets=true"),
        ({"stage": 3}, "needs whole weights on every rank: zero.stage 0, 1 or 2"),
        ({"side_by_side": 2}, "needs train.side_by_side=1"),
        ({"checkpoint_every": 1}, "needs model.checkpoint_every=0"),
    ],
)
def test_what_graphs_cannot_do_is_refused(tmp_path, changes, wrong):
    with pytest.raises(ConfigError, match=wrong):
        configure(tmp_path, tmp_path, cuda_graphs=True, **changes)
