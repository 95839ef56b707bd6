"""The largest micro-batch before the first step: which it is, and what is said where memory does not hold it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unimol_scale.data.dataset import DataConfig
from unimol_scale.data.steps.micro_batches import plan_micro_batches
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.planning import rehearsal
from unimol_scale.engine.planning.max_pairs import with_max_pairs_here
from unimol_scale.engine.planning.rank_memory import (
    MicroBatchShape,
    fitting_max_pairs,
    largest_micro_batch,
    micro_batch_bytes,
)
from unimol_scale.engine.planning.rehearsal import (
    carbon_chains,
    prepare_host_memory,
    rehearse,
    worst_samples,
)
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.errors import RunError
from unimol_scale.model.presets import preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.config import ObjectiveConfig, build_objective

NCCL_FAILED = "NCCL error in: NCCLUtils.cpp:77, unhandled cuda error, NCCL version 2.27.3\nncclUnhandledCudaError:"
ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
HISTOGRAM = {5: 100, 12: 400, 20: 600, 32: 80, 45: 1}


def run_of(size="0.03M", max_pairs=10_000, objective=None, **train):
    train = {"steps": 10, "warmup_steps": 1, "global_batch_size": 64, "precision": "fp32"} | train
    config = PretrainConfig(
        size=size,
        output=Path("runs/x"),
        data=DataConfig(path="nowhere", max_pairs=max_pairs),
        model=preset(size),
        objective=objective or ObjectiveConfig(),
        train=TrainConfig(**train),
    )
    return config, build_objective(config.objective, config.model)


def test_no_micro_batch_of_real_steps_needs_more():
    config, objective = run_of(max_pairs=6_000)
    most = micro_batch_bytes(
        config, objective, largest_micro_batch(config, objective, HISTOGRAM, cuda=False), cuda=False
    )
    sizes = np.repeat(list(HISTOGRAM), list(HISTOGRAM.values())).astype(np.int32)
    draw = np.random.default_rng(1)
    seen = 0.0
    for _ in range(30):
        atoms_G = draw.choice(sizes, size=config.train.global_batch_size, replace=False)
        for members in plan_micro_batches(atoms_G, 2, config.data.max_pairs).members:
            shape = MicroBatchShape(molecules=len(members), num_atoms=int(atoms_G[members].max()))
            assert shape.pairs <= config.data.max_pairs
            seen = max(seen, micro_batch_bytes(config, objective, shape, cuda=False))
    assert seen <= most
    assert seen > 0.5 * most  # and it is not far more than steps really bring


def test_small_molecules_are_the_worst_where_steps_are_full_of_them():
    # Of wide atoms and narrow pairs: more atoms to a pair is more memory to a pair.
    config, objective = run_of(size="1.1B", max_pairs=4_000, global_batch_size=1024)
    common = largest_micro_batch(config, objective, {4: 1_000_000, 30: 10}, cuda=True)
    assert common == MicroBatchShape(molecules=160, num_atoms=4)
    rare = largest_micro_batch(config, objective, {4: 10, 30: 1_000_000}, cuda=True)
    assert rare == MicroBatchShape(molecules=4, num_atoms=30)


def test_a_window_of_shards_may_bring_any_molecules_together():
    config, objective = run_of(size="1.1B", max_pairs=4_000, global_batch_size=1024)
    windowed = replace(config, data=replace(config.data, shuffle_window=2))
    histogram = {4: 1_000, 30: 10_000_000}
    assert largest_micro_batch(config, objective, histogram, cuda=True).num_atoms == 30
    assert largest_micro_batch(windowed, objective, histogram, cuda=True).num_atoms == 4


def test_a_batch_never_has_more_molecules_than_a_step():
    config, objective = run_of(max_pairs=1_000_000, global_batch_size=8)
    assert largest_micro_batch(config, objective, {10: 1000}, cuda=False) == MicroBatchShape(molecules=8, num_atoms=10)


@pytest.mark.parametrize("num_atoms", [1, 2, 17])
def test_made_up_molecules_are_molecules(num_atoms):
    batch = carbon_chains(MicroBatchShape(molecules=3, num_atoms=num_atoms), num_labels=2)
    assert batch.valid_BA.all()
    assert batch.degree_BA[0].sum() == 2 * (num_atoms - 1)
    assert batch.path_BAA[2, 0, -1] == num_atoms - 1
    assert batch.labels_BL.shape == (3, 2)
    r = batch.coordinates_BA3[1]
    gaps = np.linalg.norm(r[1:] - r[:-1], axis=1)
    assert ((gaps > 1.2) & (gaps < 2.0)).all()


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveConfig(),
        ObjectiveConfig(name="blend"),
        ObjectiveConfig(name="mixture", mixture={"denoise": 0.5, "blend": 0.5}),
    ],
)
def test_every_part_runs_forward_and_backward_and_gives_finite_gradients(objective):
    config, objective = run_of(max_pairs=800, objective=objective)
    model = objective.build_model(config.model)
    ran = []

    def run(sample):
        total_loss(model(sample), sample.counts, objective.weights).backward()
        ran.append(sample)

    shape = rehearse(config, objective, {1: 50, 9: 5}, ALONE, run)
    assert len(ran) == len(objective.parts)
    for sample in ran:
        assert sample.num_atoms == shape.molecules * shape.num_atoms
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_it_is_the_same_every_time():
    config, objective = run_of()
    shape = MicroBatchShape(molecules=4, num_atoms=7)
    (one,), (two,) = (worst_samples(config, objective, shape) for _ in range(2))
    assert torch.equal(one.input.coordinates_BA3, two.input.coordinates_BA3)
    assert torch.equal(one.input.token_BA, two.input.token_BA)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no more"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError(f"{NCCL_FAILED} Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"),
        RuntimeError(
            f"{NCCL_FAILED} Call to CUDA function failed.\nLast error:\nFailed to CUDA calloc async 608 bytes"
        ),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_too_little_memory_is_an_error_that_names_what_would_fit(monkeypatch, error):
    config, objective = run_of(size="84M", max_pairs=40_000, precision="bf16")
    monkeypatch.setattr(rehearsal, "available_bytes", lambda: 64 * 2**30)
    monkeypatch.setattr(rehearsal, "device_bytes", lambda ranks: 6.0 * 2**30)

    def fail(sample):
        raise error

    with pytest.raises(RunError) as raised:
        rehearse(config, objective, {10: 1000, 30: 1000}, ALONE, fail)
    message = str(raised.value)
    assert re.search("(?i)memory|alloc|initialized|no more", message.split("failed: ")[1])  # the line that says so
    assert "data.max_pairs 40000" in message
    assert "41 molecules of 30 atoms" in message
    fitting = int(message.split("data.max_pairs=")[1].split()[0])
    assert 961 <= fitting < 40_000


@pytest.mark.parametrize(
    "text",
    [
        "size mismatch",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`",
        "NCCL error: unhandled system error\nncclSystemError: System call (e.g. socket, malloc) failed",
    ],
)
def test_other_errors_stay_what_they_are(text):
    config, objective = run_of()

    def fail(sample):
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match=re.escape(text)):
        rehearse(config, objective, HISTOGRAM, ALONE, fail)


def test_a_host_that_is_too_small_is_refused_before_anything_is_allocated(monkeypatch):
    config, objective = run_of(size="1.1B", max_pairs=4_000, precision="bf16")
    monkeypatch.setattr(rehearsal, "available_bytes", lambda: 8 * 2**30)
    with pytest.raises(RunError, match=r"needs an estimated .* GiB per rank, but .* GiB are available"):
        prepare_host_memory(config, objective, HISTOGRAM, ALONE)
    monkeypatch.setattr(rehearsal, "available_bytes", lambda: 400 * 2**30)
    prepare_host_memory(config, objective, HISTOGRAM, ALONE)


def test_malloc_is_asked_to_return_memory_where_it_is_short_only(monkeypatch):
    config, objective = run_of(size="84M", max_pairs=4_000, precision="bf16")
    asked = []
    monkeypatch.setattr(rehearsal, "return_freed_memory", lambda: asked.append(True))
    monkeypatch.setattr(rehearsal, "resident_bytes", lambda: 0.3 * 2**30)  # not what the tests before this one left
    monkeypatch.setattr(rehearsal, "available_bytes", lambda: 400 * 2**30)
    prepare_host_memory(config, objective, HISTOGRAM, ALONE)
    assert not asked
    monkeypatch.setattr(rehearsal, "available_bytes", lambda: 5 * 2**30)
    prepare_host_memory(config, objective, HISTOGRAM, ALONE)
    assert asked


def test_who_rehearses_nothing_is_not_refused(monkeypatch):
    config, objective = run_of(size="1.1B", max_pairs=4_000, precision="bf16", rehearse=False)
    monkeypatch.setattr(rehearsal, "available_bytes", lambda: 8 * 2**30)
    prepare_host_memory(config, objective, HISTOGRAM, ALONE)


class Pair:
    """Two ranks with devices of other sizes."""

    rank, world_size = 0, 2

    def __init__(self, kind):
        self.device = torch.device(kind)

    def gather(self, value):
        return [value, 24e9]


def test_ranks_agree_on_the_budget_that_the_smallest_of_them_holds(monkeypatch):
    config = PretrainConfig(
        size="84M",
        output=Path("runs/x"),
        data=DataConfig(path="nowhere"),
        model=preset("84M"),
    )
    objective = build_objective(config.objective, config.model)
    monkeypatch.setattr("unimol_scale.engine.planning.max_pairs.device_bytes", lambda ranks: 80e9)
    chosen = with_max_pairs_here(config, objective, {25: 10**6}, Pair("cuda")).data.max_pairs
    assert chosen == fitting_max_pairs(config, objective, {25: 10**6}, 24e9, world_size=2, cuda=True, margin=0.2)
    assert with_max_pairs_here(config, objective, {25: 10**6}, Pair("cpu")).data.max_pairs == 40_000
