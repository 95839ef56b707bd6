"""Estimates the time of a training step: the longest of compute, memory traffic, host and network.

A GPU overlaps these four, so a step takes as long as the longest of them:

- compute: FLOPs of the matrix products, including padding and recomputation, divided by what large products reach
  (0.8 of the data sheet's peak: 790 of 989 TFLOP/s);
- memory traffic: bytes that the kernels read and write, one operation after another, divided by what large copies reach
  (0.9 of the data sheet's bandwidth: 4.3 of 4.8 TB/s);
- host: kernels of a micro-batch × the time that the host needs to launch one, which does not depend on the size of the
  micro-batch;
- network: bytes of the collectives divided by the bandwidth of the slowest link that a rank uses.

With 790 TFLOP/s and 4.3 TB/s this gives 23 % of the matrix products' peak at 84M and 28 % at 1.1B, for micro-batches
that are large enough. A CPU does the work of host and device on the same cores, one after the other, and is expected to
reach a fixed fraction of its peak (``Target.mfu``). Validation, saving, offloading and waiting for data are not
counted.
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
    mean_flops,
    orthogonalisation_flops,
    recomputed_share,
    training_kernels,
    training_traffic_bytes,
)
from unimol_scale.objectives.base import Objective

# Host seconds per kernel, including Python, autograd and DeepSpeed's hooks, by ZeRO stage. Derived from the CPU time of
# a micro-batch of tiny tensors, 12 and 64 layers deep: 54 and 198 ms without DeepSpeed (16 to 21 µs per kernel), 83 and
# 365 ms at stage 1, 147 and 809 ms at stage 3 [measured]. Stages 0 and 2 were not measured and are assumed equal to 1.
SECONDS_OF_KERNEL = {0: 31e-6, 1: 31e-6, 2: 31e-6, 3: 63e-6}
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
        memory_traffic: of the kernels' reads and writes; 0 if it is part of ``compute``.
        host: of launching kernels.
        network: of collectives.
        kernels: number of kernels of a micro-batch.
        seconds: of the whole step.
        bound: which of the four is the longest.
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
        return max(self.compute, self.memory_traffic)


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """Mean cost of the micro-batches of a step, where the costliest of each turn counts."""

    micro_batches: float
    flops: float
    traffic: float
    padding: float
    waiting: float


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
    cut = _cut(config, objective, histogram, world_size)
    again = recomputed_share(config.model) / TRAINING_TO_FORWARD
    orthogonal = orthogonalisation_flops(config.model, config.train.tracks_of_muon, config.train.muon_iterations)
    if target.mfu is None:
        compute = (cut.flops * (1 + again) + orthogonal / world_size) / target.matmul_flops
        traffic = cut.traffic / target.bandwidth if target.bandwidth else 0.0
    else:
        useful = mean_flops(lambda n: objective.training_flops(config.model, n), histogram)
        compute, traffic = (
            useful * config.train.global_batch_size / world_size / (target.peak_flops * target.mfu),
            0.0,
        )
    kernels = training_kernels(config.model)
    if objective.teacher is not None:  # runs only forward
        kernels += training_kernels(objective.teacher) / TRAINING_TO_FORWARD
    parts = {
        "compute": compute,
        "memory traffic": traffic,
        "host": cut.micro_batches * kernels * SECONDS_OF_KERNEL[config.zero.stage],
        "network": _network_seconds(config, objective, cut.micro_batches, world_size, target),
    }
    time = StepTime(
        compute=parts["compute"],
        memory_traffic=parts["memory traffic"],
        host=parts["host"],
        network=parts["network"],
        kernels=kernels,
        seconds=max(parts.values()) if target.is_gpu else sum(parts.values()),
        bound=max(parts, key=lambda part: parts[part]),
    )
    train, molecules = config.train, sum(histogram.values())
    steps = StepsPlan(
        steps=config.own_steps,
        batch=train.global_batch_size,
        epochs=train.steps * train.global_batch_size / molecules,
        micro_batches=cut.micro_batches,
        padding=cut.padding,
        waiting=cut.waiting,
    )
    return steps, time


def _cut(config: PretrainConfig, objective: Objective, histogram: Mapping[int, int], world_size: int) -> _Cut:
    """Cut a few batches drawn from the histogram, with a fixed seed."""
    batch, model, width = config.train.global_batch_size, config.model, value_bytes(config)
    sizes, rows = np.array(list(histogram), np.int32), np.array(list(histogram.values()), np.float64)
    draw = np.random.default_rng(0)
    share_of_rank = batch // world_size
    world_size = min(world_size, _MOST_RANKS_DRAWN)
    drawn = min(share_of_rank, _MOST_DRAWN) * world_size
    turns, spent, real, busy, flops, traffic = 0, 0, 0, 0, 0.0, 0.0
    for _ in range(_STEPS_DRAWN):
        atoms_G = draw.choice(sizes, size=drawn, p=rows / rows.sum())
        plan = plan_micro_batches(atoms_G, world_size, config.data.pair_budget)
        turns += plan.per_rank
        real += int(((atoms_G.astype(np.int64) + 1) ** 2).sum())
        shapes = [(len(members), int(atoms_G[members].max())) for members in plan.members]
        spent += sum(count * (n + 1) ** 2 for count, n in shapes)
        # Micro-batches of one turn run side by side; the costliest decides how long it takes.
        for start in range(0, len(shapes), world_size):
            count, n = max(shapes[start : start + world_size], key=lambda shape: shape[0] * (shape[1] + 1) ** 2)
            busy += world_size * count * (n + 1) ** 2
            flops += count * objective.training_flops(model, n)
            traffic += training_traffic_bytes(model, count, n, width)
    share = share_of_rank * world_size / drawn / _STEPS_DRAWN
    return _Cut(
        micro_batches=turns * share,
        flops=flops * share,
        traffic=traffic * share,
        padding=1 - real / spent,
        waiting=1 - spent / busy,
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
    passes = {0: 2.0, 1: 2.0, 2: 1.0 + micro_batches, 3: 3.0 * micro_batches}[config.zero.stage]
    speed = target.link if world_size <= GPUS_PER_MACHINE else min(target.link, target.network)
    return passes * weights * (1 - 1 / world_size) / speed
