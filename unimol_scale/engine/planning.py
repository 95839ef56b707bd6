"""What a run would be, in numbers, before it starts: parameters, memory, micro-batches, FLOPs, days, checkpoints.

``plan_run`` computes them, plan.py says them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from unimol_scale.data.cuts import check_budget, plan_micro_batches
from unimol_scale.engine.devices import Target
from unimol_scale.engine.memory import (
    MARGIN,
    MicroBatchShape,
    RankMemory,
    checkpoint_bytes,
    largest_max_pairs,
    largest_micro_batch,
    rank_memory,
)
from unimol_scale.engine.run_config import PretrainConfig, ZeroConfig
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import ParameterCount, mean_flops
from unimol_scale.objectives.base import Objective

# Steps drawn from the histogram to see how batches are cut.
_STEPS_DRAWN = 8
_MOST_RANKS = 4096
SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """The training split.

    Attributes:
        path: of the store.
        molecules: in the split.
        mean_atoms: of them.
        largest: atoms of the largest.
    """

    path: str
    molecules: int
    mean_atoms: float
    largest: int


@dataclass(frozen=True, kw_only=True)
class StepsPlan:
    """How steps are cut, from batches drawn from the store's histogram.

    Attributes:
        steps: of the run.
        batch: molecules of a step.
        epochs: passes over the split.
        micro_batches: of a rank and step, mean.
        padding: share of the pairs of micro-batches that are padding.
        waiting: share of the time in which a rank waits for the costliest micro-batch of a turn.
    """

    steps: int
    batch: int
    epochs: float
    micro_batches: float
    padding: float
    waiting: float


@dataclass(frozen=True, kw_only=True)
class ComputePlan:
    """What it costs; FLOPs are those of the matrix products that molecules need, padding and recomputation not counted.

    Attributes:
        flops_per_step: over all ranks.
        flops: of the run.
        seconds_per_step: at the target's peak and MFU.
        days: of the run.
        device_hours: of all ranks together.
    """

    flops_per_step: float
    flops: float
    seconds_per_step: float
    days: float
    device_hours: float


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """Whether a rank's memory suffices.

    Attributes:
        fits: the peak leaves the margin free; None: the capacity is not known.
        max_pairs: largest ``data.max_pairs`` that fits; None: no molecule fits, or the capacity is not known.
        remedies: changes that would make it fit, where nothing does.
    """

    fits: bool | None
    max_pairs: int | None
    remedies: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is said of a run before it starts.

    Attributes:
        name: of the run.
        size: preset.
        objective: name.
        precision: of weights and activations.
        zero_stage: of DeepSpeed.
        world_size: ranks.
        target: the device of a rank.
        parameters: by group.
        shape: of the largest micro-batch.
        memory: of a rank.
        fit: whether it suffices.
        data: the split.
        steps: how they are cut.
        compute: what they cost.
        checkpoint_bytes: of one.
        checkpoints_kept: newest, best, and the one being written.
    """

    name: str
    size: str
    objective: str
    precision: str
    zero_stage: int
    world_size: int
    target: Target
    parameters: Mapping[str, int]
    shape: MicroBatchShape
    memory: RankMemory
    fit: FitPlan
    data: DataPlan
    steps: StepsPlan
    compute: ComputePlan
    checkpoint_bytes: int
    checkpoints_kept: int


def plan_run(
    config: PretrainConfig, objective: Objective, histogram: Mapping[int, int], *, world_size: int, target: Target
) -> Plan:
    """Work out a run.

    Args:
        config: of the run.
        objective: of the run.
        histogram: atoms → molecules of the training split.
        world_size: ranks.
        target: the device of each of them.

    Raises:
        ConfigError: the batch does not divide among the ranks, or ``data.max_pairs`` is too low for a molecule.
    """
    check_division(config.train.global_batch_size, world_size)
    check_budget(max(histogram), config.data.max_pairs)
    count = _build_on_meta(config, objective)
    cuda = target.is_gpu
    shape = largest_micro_batch(config, objective, histogram, cuda=cuda)
    memory = rank_memory(config, objective, shape, world_size=world_size, cuda=cuda)
    molecules = sum(histogram.values())
    train = config.train
    flops_per_step = train.global_batch_size * mean_flops(
        lambda n: objective.training_flops(config.model, n), histogram
    )
    seconds = flops_per_step / (world_size * target.peak_flops * target.mfu)
    return Plan(
        name=config.name,
        size=config.size,
        objective=config.objective.name,
        precision=train.precision,
        zero_stage=config.zero.stage,
        world_size=world_size,
        target=target,
        parameters=count.as_dict(),
        shape=shape,
        memory=memory,
        fit=_fit(config, objective, histogram, memory, world_size=world_size, target=target),
        data=DataPlan(
            path=config.data.path,
            molecules=molecules,
            mean_atoms=sum(n * rows for n, rows in histogram.items()) / molecules,
            largest=max(histogram),
        ),
        steps=_steps(config, histogram, world_size),
        compute=ComputePlan(
            flops_per_step=flops_per_step,
            flops=flops_per_step * train.steps,
            seconds_per_step=seconds,
            days=seconds * train.steps / SECONDS_A_DAY,
            device_hours=seconds * train.steps * world_size / 3600.0,
        ),
        checkpoint_bytes=checkpoint_bytes(config, count.total),
        checkpoints_kept=train.keep_checkpoints + 2,
    )


def check_division(batch: int, world_size: int) -> None:
    """Refuse a number of ranks that does not divide the batch.

    Raises:
        ConfigError: names the nearest batches and the nearest numbers of ranks that go.
    """
    if batch % world_size == 0:
        return
    below, above = batch // world_size * world_size, -(-batch // world_size) * world_size
    batches = " or ".join(str(size) for size in (below, above) if size)
    divisors = [ranks for ranks in range(1, batch + 1) if batch % ranks == 0]
    fewer, more = max(r for r in divisors if r < world_size), [r for r in divisors if r > world_size]
    ranks = " or ".join(map(str, [fewer, *more[:1]]))
    raise ConfigError(
        f"train.global_batch_size {batch} is not a multiple of the {world_size} ranks; nearest: "
        f"train.global_batch_size={batches}, or {ranks} ranks"
    )


def _build_on_meta(config: PretrainConfig, objective: Objective) -> ParameterCount:
    """Build the whole model without memory and return its parameters by group.

    The count must equal the accounting's, group by group summed; anything else is a defect of one of the two.
    """
    with torch.device("meta"):
        model = objective.build_model(config.model)
    total = sum(parameter.numel() for parameter in model.parameters())
    count = objective.count_parameters(config.model)
    assert total == count.total, f"the model has {total} parameters, accounting says {count.total}"
    return count


def _steps(config: PretrainConfig, histogram: Mapping[int, int], world_size: int) -> StepsPlan:
    """Cut a few batches drawn from the histogram; the draw is the same every time."""
    train = config.train
    sizes, rows = np.array(list(histogram), np.int32), np.array(list(histogram.values()), np.float64)
    draw = np.random.default_rng(0)
    turns, spent, real, busy = 0, 0, 0, 0
    for _ in range(_STEPS_DRAWN):
        atoms_G = draw.choice(sizes, size=train.global_batch_size, p=rows / rows.sum())
        plan = plan_micro_batches(atoms_G, world_size, config.data.max_pairs)
        turns += plan.per_rank
        real += int(((atoms_G.astype(np.int64) + 1) ** 2).sum())
        cost_M = np.array([len(members) * (int(atoms_G[members].max()) + 1) ** 2 for members in plan.members])
        spent += int(cost_M.sum())
        # Micro-batches of one turn follow one another; the costliest decides how long it takes.
        busy += world_size * sum(int(cost_M[t : t + world_size].max()) for t in range(0, len(cost_M), world_size))
    return StepsPlan(
        steps=train.steps,
        batch=train.global_batch_size,
        epochs=train.steps * train.global_batch_size / float(rows.sum()),
        micro_batches=turns / _STEPS_DRAWN,
        padding=1 - real / spent,
        waiting=1 - spent / busy,
    )


def _fit(
    config: PretrainConfig,
    objective: Objective,
    histogram: Mapping[int, int],
    memory: RankMemory,
    *,
    world_size: int,
    target: Target,
) -> FitPlan:
    if target.memory is None:
        return FitPlan(fits=None, max_pairs=None, remedies=())
    fits = memory.total <= target.memory * (1 - MARGIN)
    found = largest_max_pairs(config, objective, histogram, memory, target.memory, cuda=target.is_gpu)
    remedies = () if found is not None else _remedies(config, objective, histogram, world_size, target)
    return FitPlan(fits=fits, max_pairs=found, remedies=remedies)


def _remedies(
    config: PretrainConfig, objective: Objective, histogram: Mapping[int, int], world_size: int, target: Target
) -> tuple[str, ...]:
    """Return the single changes with which the largest molecule fits; if there is none, the least of several."""
    # A file of DeepSpeed settings belongs to the stage it was written for.
    stage_3 = ("zero.stage=3", replace(config, zero=ZeroConfig(stage=3)), world_size)
    recomputed = ("model.checkpoint_every=1", _recomputing(config), world_size)
    batch = config.train.global_batch_size
    more = [ranks for ranks in range(world_size + 1, min(batch, _MOST_RANKS) + 1) if batch % ranks == 0]
    single = [stage_3] * (config.zero.stage < 3) + [recomputed] * (config.model.checkpoint_every != 1)

    def holds(changed: PretrainConfig, ranks: int) -> bool:
        shape = largest_micro_batch(changed, objective, histogram, cuda=target.is_gpu)
        memory = rank_memory(changed, objective, shape, world_size=ranks, cuda=target.is_gpu)
        found = largest_max_pairs(changed, objective, histogram, memory, target.memory or 0.0, cuda=target.is_gpu)
        return found is not None

    remedies = [name for name, changed, ranks in single if holds(changed, ranks)]
    enough = next((ranks for ranks in more if holds(config, ranks)), None)
    if enough is not None:
        remedies.append(f"{enough} ranks")
    if remedies:
        return tuple(remedies)
    everything = _recomputing(stage_3[1] if config.zero.stage < 3 else config)
    names = [name for name, _, _ in single]
    if holds(everything, world_size):
        return (" and ".join(names),)
    enough = next((ranks for ranks in more if holds(everything, ranks)), None)
    return (" and ".join([*names, f"{enough} ranks"]),) if enough is not None else ()


def _recomputing(config: PretrainConfig) -> PretrainConfig:
    return replace(config, model=replace(config.model, checkpoint_every=1))
