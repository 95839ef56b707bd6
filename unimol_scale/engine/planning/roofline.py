"""Estimates the time of a training step: the longest of what the device, the host and the network need.

These three overlap on a GPU, so a step takes as long as the longest of them:

- device: its kernels run one after another. A matrix product takes as long as its FLOPs, including padding and
  recomputation, at what large products reach (0.8 of the data sheet's peak: 790 of 989 TFLOP/s), or as its bytes if
  they take longer. All other kernels take as long as their bytes at what large copies reach (0.9 of the data sheet's
  bandwidth: 4.3 of 4.8 TB/s). Bytes are counted for the kernels that compute the layers (model/fused/gpu_work.py);
- host: the kernels of a micro-batch × the time to start one, and DeepSpeed's hooks on every layer. Neither depends on
  the size of the micro-batch;
- network: bytes of the collectives divided by the bandwidth of the slowest link that a rank uses.

Nothing of this has been measured on a GPU; ``python -m benchmarks.gpu`` compares it with one. A CPU does the work of
host and device on the same cores, one after the other, and is expected to reach a fixed fraction of its peak
(``Target.mfu``). Validation, saving, offloading and waiting for data are not counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unimol_scale.data.steps.micro_batches import plan_micro_batches
from unimol_scale.engine.planning.accelerators import GPUS_PER_MACHINE, Target
from unimol_scale.engine.planning.rank_memory import value_bytes
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.model.accounting import (
    TRAINING_TO_FORWARD,
    Heads,
    mean_flops,
    orthogonalisation_flops,
    recomputed_share,
)
from unimol_scale.model.fused.gpu_work import is_fused, training_work
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import Objective

# Host seconds per kernel, including Python and autograd. The CPU time of a micro-batch of tiny tensors was 54 and
# 198 ms with 12 and 64 layers of torch's operations [measured]. Triton's kernels are started from Python: 21 µs per
# kernel without the starts themselves [measured], for which 15 µs each are assumed.
SECONDS_OF_KERNEL = {"plain": 16.5e-6, "fused": 30e-6}
# Host seconds per layer of DeepSpeed's hooks, by ZeRO stage: the same micro-batches took 83 and 365 ms at stage 1, 147
# and 809 ms at stage 3 [measured]. Stages 0 and 2 were not measured and are assumed equal to 1.
SECONDS_OF_HOOKS = {0: 2.65e-3, 1: 2.65e-3, 2: 2.65e-3, 3: 9.5e-3}
# Host seconds to copy a micro-batch into place and start a CUDA graph; assumed.
SECONDS_OF_GRAPH = 1e-3
# Steps drawn from the histogram to find out how batches are cut.
_STEPS_DRAWN = 8
# If a batch has more molecules per rank, this many are drawn to represent them.
_MOST_DRAWN = 4096
# This many ranks represent any larger number.
_MOST_RANKS_DRAWN = 1024


@dataclass(frozen=True, kw_only=True)
class StepsPlan:
    """How steps are cut into micro-batches, computed from batches drawn from the store's histogram.

    Attributes:
        steps: steps of the run, without those of its trunk.
        batch: molecules per step.
        epochs: passes over the split; None: its number of molecules is unknown.
        micro_batches: mean number per rank and step.
        padding: fraction of a micro-batch's pairs that are padding.
        waiting: fraction of the time in which a rank waits for the costliest micro-batch of a turn.
    """

    steps: int
    batch: int
    epochs: float | None
    micro_batches: float
    padding: float
    waiting: float


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a step.

    Attributes:
        compute: of the matrix products.
        memory_traffic: of the reads and writes of all other kernels; 0 if they are part of ``compute``.
        host: of starting kernels.
        network: of collectives.
        kernels: mean number of kernels of a micro-batch.
        seconds: of the whole step.
        bound: which of the four limits the step.
    """

    compute: float
    memory_traffic: float
    host: float
    network: float
    kernels: float
    seconds: float
    bound: str

    @property
    def device(self) -> float:
        """Seconds for which the device itself is busy."""
        return self.compute + self.memory_traffic


@dataclass(frozen=True, kw_only=True)
class MicroBatchTime:
    """Seconds of one micro-batch, without DeepSpeed and the network.

    Attributes:
        compute: of the matrix products.
        memory_traffic: of the reads and writes of all other kernels.
        kernels: number of kernels.
        host: of starting them.
    """

    compute: float
    memory_traffic: float
    kernels: float
    host: float

    @property
    def seconds(self) -> float:
        """Duration on a GPU."""
        return max(self.compute + self.memory_traffic, self.host)


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """Cost of the micro-batches of a mean step, where the costliest of each turn counts; ``time`` is their sum."""

    micro_batches: float
    time: MicroBatchTime
    padding: float
    waiting: float


def micro_batch_time(
    model: ModelConfig,
    heads: Heads,
    flops: float,
    molecules: int,
    num_atoms: int,
    target: Target,
    *,
    precision: str,
    fused: bool | None = None,
) -> MicroBatchTime:
    """Return how long the forward and the backward pass of a micro-batch take.

    Args:
        model: configuration of the model.
        heads: heads of the objective.
        flops: FLOPs of both passes for all molecules, without recomputation.
        molecules: molecules in the micro-batch.
        num_atoms: atoms of each, with padding.
        target: the device.
        precision: ``bf16`` or ``fp32``.
        fused: whether Triton kernels compute it; None: as the model chooses on that device.
    """
    if fused is None:
        fused = target.is_gpu and is_fused(model, num_atoms, precision)
    width = 2 if precision == "bf16" else 4
    work = training_work(model, molecules, num_atoms, width, fused=fused, heads=heads)
    compute = flops * (1 + recomputed_share(model) / TRAINING_TO_FORWARD) / target.matmul_flops
    traffic = 0.0
    if target.bandwidth is not None:
        compute, traffic = max(compute, work.product_bytes / target.bandwidth), work.other_bytes / target.bandwidth
    host = work.kernels * SECONDS_OF_KERNEL["fused" if fused else "plain"]
    return MicroBatchTime(compute=compute, memory_traffic=traffic, kernels=work.kernels, host=host)


def step_time(
    config: PretrainConfig, objective: Objective, histogram: Mapping[int, int], *, world_size: int, target: Target
) -> tuple[StepsPlan, StepTime]:
    """Return how the steps of a run are cut into micro-batches, and how long a step takes.

    Args:
        config: configuration of the run.
        objective: objective of the run.
        histogram: atoms → molecules of the training split.
        world_size: number of ranks, which must divide the batch.
        target: device of each rank.
    """
    cut = _cut(config, objective, histogram, world_size, target)
    train, molecules = config.train, sum(histogram.values())
    if target.mfu is None:
        orthogonal = orthogonalisation_flops(config.model, train.tracks_of_muon, train.muon_iterations)
        compute = cut.time.compute + orthogonal / world_size / target.matmul_flops
        traffic = cut.time.memory_traffic
    else:
        useful = mean_flops(lambda n: objective.training_flops(config.model, n), histogram)
        compute = useful * train.global_batch_size / world_size / (target.peak_flops * target.mfu)
        traffic = 0.0
    host = _host_seconds(config, cut)
    network = _network_seconds(config, objective, cut.micro_batches, world_size, target)
    device = compute + traffic
    on_device = "compute" if compute >= traffic else "memory traffic"
    if target.is_gpu:
        parts = {on_device: device, "host": host, "network": network}
        seconds = max(parts.values())
    else:
        parts = {on_device: device, "host": host}
        seconds = device + host
    time = StepTime(
        compute=compute,
        memory_traffic=traffic,
        host=host,
        network=network,
        kernels=cut.time.kernels / cut.micro_batches,
        seconds=seconds,
        bound=max(parts, key=lambda part: parts[part]),
    )
    steps = StepsPlan(
        steps=config.own_steps,
        batch=train.global_batch_size,
        epochs=train.steps * train.global_batch_size / molecules,
        micro_batches=cut.micro_batches,
        padding=cut.padding,
        waiting=cut.waiting,
    )
    return steps, time


def _host_seconds(config: PretrainConfig, cut: _Cut) -> float:
    """Return the host's seconds of a step. Graphs and micro-batches side by side need DeepSpeed's hooks once a step."""
    hooks = config.model.layers * SECONDS_OF_HOOKS[config.zero.stage_used]
    once = config.train.cuda_graphs or (config.train.side_by_side or 1) > 1
    starting = cut.micro_batches * SECONDS_OF_GRAPH if config.train.cuda_graphs else cut.time.host
    return starting + hooks * (1.0 if once else cut.micro_batches)


def _cut(
    config: PretrainConfig, objective: Objective, histogram: Mapping[int, int], world_size: int, target: Target
) -> _Cut:
    """Cut a few batches drawn from the histogram, with a fixed seed."""
    batch, buckets = config.train.global_batch_size, config.data.shapes
    sizes, rows = np.array(list(histogram), np.int32), np.array(list(histogram.values()), np.float64)
    draw = np.random.default_rng(0)
    share_of_rank = batch // world_size
    world_size = min(world_size, _MOST_RANKS_DRAWN)
    drawn = min(share_of_rank, _MOST_DRAWN) * world_size
    turns, spent, real, busy = 0, 0, 0, 0
    times: list[MicroBatchTime] = []
    for _ in range(_STEPS_DRAWN):
        atoms_G = draw.choice(sizes, size=drawn, p=rows / rows.sum())
        real += int(((atoms_G.astype(np.int64) + 1) ** 2).sum())
        if buckets is not None:
            atoms_G = buckets.atoms(atoms_G)
        plan = plan_micro_batches(atoms_G, world_size, config.data.pair_budget)
        turns += plan.per_rank
        shapes = [(len(members), int(atoms_G[members].max())) for members in plan.members]
        if buckets is not None:
            shapes = [buckets.shape(*shape) for shape in shapes]
        spent += sum(count * (n + 1) ** 2 for count, n in shapes)
        # Micro-batches of one turn run side by side; the costliest decides how long it takes.
        for start in range(0, len(shapes), world_size):
            count, n = max(shapes[start : start + world_size], key=lambda shape: shape[0] * (shape[1] + 1) ** 2)
            busy += world_size * count * (n + 1) ** 2
            times.append(_time_of(config, objective, count, n, target))
    share = share_of_rank * world_size / drawn / _STEPS_DRAWN
    total = MicroBatchTime(
        compute=sum(time.compute for time in times) * share,
        memory_traffic=sum(time.memory_traffic for time in times) * share,
        kernels=sum(time.kernels for time in times) * share,
        host=sum(time.host for time in times) * share,
    )
    return _Cut(micro_batches=turns * share, time=total, padding=1 - real / spent, waiting=1 - spent / busy)


def _time_of(
    config: PretrainConfig, objective: Objective, molecules: int, num_atoms: int, target: Target
) -> MicroBatchTime:
    """Return the time of a micro-batch, with the forward pass of the teacher if there is one."""
    flops = molecules * objective.training_flops(config.model, num_atoms)
    shape, precision = (molecules, num_atoms, target), config.train.precision
    time = micro_batch_time(config.model, objective.heads, flops, *shape, precision=precision)
    if objective.teacher is None:
        return time
    # Its products are part of the objective's FLOPs.
    taught = micro_batch_time(objective.teacher, Heads(), 0.0, *shape, precision=precision)
    return MicroBatchTime(
        compute=time.compute,
        memory_traffic=time.memory_traffic + taught.memory_traffic / TRAINING_TO_FORWARD,
        kernels=time.kernels + taught.kernels / TRAINING_TO_FORWARD,
        host=time.host + taught.host / TRAINING_TO_FORWARD,
    )


def _network_seconds(
    config: PretrainConfig, objective: Objective, micro_batches: float, world_size: int, target: Target
) -> float:
    """Return the seconds of a step's collectives.

    Once per step, gradients are summed and weights distributed, each moving as many bytes as the weights have. Stage 2
    sums gradients in every micro-batch; stage 3 also gathers the weights twice in each.
    """
    if target.link is None or world_size == 1:
        return 0.0
    weights = objective.count_parameters(config.model).total * value_bytes(config)
    passes = {0: 2.0, 1: 2.0, 2: 1.0 + micro_batches, 3: 3.0 * micro_batches}[config.zero.stage_used]
    speed = target.link if world_size <= GPUS_PER_MACHINE else min(target.link, target.network)
    return passes * weights * (1 - 1 / world_size) / speed
