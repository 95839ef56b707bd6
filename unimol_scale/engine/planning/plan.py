"""Plans a run in numbers before it starts: parameters, memory, micro-batches, FLOPs, days, checkpoints.

``plan_run`` computes them; plan_text.py formats them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from unimol_scale.common.machine import threads
from unimol_scale.common.units import SECONDS_A_DAY
from unimol_scale.data.steps.micro_batches import check_budget
from unimol_scale.engine.planning.accelerators import Target
from unimol_scale.engine.planning.max_pairs import with_max_pairs, with_side_by_side, with_stage
from unimol_scale.engine.planning.rank_memory import (
    MARGIN,
    MicroBatchShape,
    RankMemory,
    checkpoint_bytes,
    fitting_max_pairs,
    largest_micro_batch,
    rank_memory,
)
from unimol_scale.engine.planning.roofline import StepsPlan, StepTime, step_time
from unimol_scale.engine.run.run_config import STAGES, PretrainConfig, Stage, ZeroConfig
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import ParameterCount, count_hidden, mean_flops
from unimol_scale.objectives.base import Objective

_MOST_RANKS = 4096
# Times that differ by less than this count as equal.
_AS_FAST = 1.1
# Of stages with equal times, the first one is recommended: 1 needs less memory than 0, less network traffic than 2, and
# less host time than 3.
_PREFERRED: tuple[Stage, ...] = (1, 2, 0, 3)
# An exported model is in fp32.
_MODEL_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """The training split.

    Attributes:
        path: path of the store; None: there is no store, and sizes are assumed.
        molecules: number of molecules in the split; None: unknown.
        mean_atoms: mean number of atoms.
        smallest: atoms of the smallest molecule.
        largest: atoms of the largest molecule.
    """

    path: str | None
    molecules: int | None
    mean_atoms: float
    smallest: int
    largest: int


@dataclass(frozen=True, kw_only=True)
class ComputePlan:
    """The cost of a run. FLOPs are those of the matrix products that molecules need, without padding and recomputation.

    Attributes:
        flops_per_step: FLOPs of a step over all ranks.
        flops: FLOPs of the run.
        seconds_per_step: see roofline.py.
        days: duration of the run.
        device_hours: duration in hours, summed over all ranks.
        mfu: fraction of the devices' peak that this corresponds to.
    """

    flops_per_step: float
    flops: float
    seconds_per_step: float
    days: float
    device_hours: float
    mfu: float


@dataclass(frozen=True, kw_only=True)
class StageOption:
    """The run at one ZeRO stage.

    Attributes:
        stage: ZeRO stage of DeepSpeed.
        fits: whether it fits in memory; None: the capacity is unknown.
        max_pairs: limit of its micro-batches, as set or as large as fits.
        memory: peak memory of a rank in bytes.
        seconds_per_step: see roofline.py.
    """

    stage: int
    fits: bool | None
    max_pairs: int
    memory: float
    seconds_per_step: float


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """Whether a rank has enough memory.

    Attributes:
        fits: whether the margin stays free at the peak; None: the capacity is unknown.
        max_pairs: largest ``data.max_pairs`` that fits; None: not even one molecule fits, or the capacity is unknown.
        remedies: changes that would make it fit, if nothing does as it is.
    """

    fits: bool | None
    max_pairs: int | None
    remedies: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is known about a run before it starts.

    Attributes:
        name: name of the run.
        size: preset of the model.
        objective: name of the objective.
        precision: precision of weights and activations.
        optimizer: name of the optimizer.
        muon_share: fraction of the parameters that Muon updates.
        zero_stage: ZeRO stage of DeepSpeed.
        zero_stage_chosen: whether it was chosen here, rather than set.
        zero_config: file of DeepSpeed settings, written for that stage; None: no file.
        world_size: number of ranks.
        target: device of a rank.
        parameters: parameters by group.
        shape: shape of the largest micro-batch.
        memory: memory of a rank.
        fit: whether that memory is enough.
        max_pairs: ``data.max_pairs`` of the run.
        max_pairs_chosen: whether it was chosen here to fill the memory, rather than set.
        data: the training split.
        steps: how steps are cut into micro-batches.
        time: how long a step takes, and why.
        compute: cost of the run.
        stages: the run at each ZeRO stage.
        recommended_stage: the fastest stage that fits; the run's own stage if that is as good, or if none fits.
        fewest_ranks: smallest number of ranks that would be about as fast at that stage; ``world_size`` if no fewer
            are.
        checkpoint_bytes: size of one checkpoint.
        checkpoints_kept: most checkpoints kept at a time: the newest, the best, those of ``train.keep_steps``, and the
            one being written.
        disk_bytes: peak size of the run folder: checkpoints and the exported model.
    """

    name: str
    size: str
    objective: str
    precision: str
    optimizer: str
    muon_share: float
    zero_stage: int
    zero_stage_chosen: bool
    zero_config: Path | None
    world_size: int
    target: Target
    parameters: Mapping[str, int]
    shape: MicroBatchShape
    memory: RankMemory
    fit: FitPlan
    max_pairs: int
    max_pairs_chosen: bool
    data: DataPlan
    steps: StepsPlan
    time: StepTime
    compute: ComputePlan
    stages: tuple[StageOption, ...]
    recommended_stage: int
    fewest_ranks: int
    checkpoint_bytes: int
    checkpoints_kept: int
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A run on given devices, from which everything in this file is computed."""

    config: PretrainConfig
    objective: Objective
    histogram: Mapping[int, int]
    world_size: int
    target: Target

    def settled(self) -> "_Case":
        """Return the case with ``data.max_pairs`` filled in."""
        config = with_max_pairs(
            self.config,
            self.objective,
            self.histogram,
            self.target.memory,
            world_size=self.world_size,
            cuda=self.target.is_gpu,
        )
        config = with_side_by_side(
            config,
            threads.given_threads() or max(1, threads.usable_cores() // self.world_size),
            world_size=self.world_size,
            cuda=self.target.is_gpu,
        )
        return replace(self, config=config)

    def shape(self) -> MicroBatchShape:
        return largest_micro_batch(self.config, self.objective, self.histogram, cuda=self.target.is_gpu)

    def memory(self) -> RankMemory:
        return rank_memory(
            self.config, self.objective, self.shape(), world_size=self.world_size, cuda=self.target.is_gpu
        )

    def fitting_max_pairs(self) -> int | None:
        assert self.target.memory is not None
        return fitting_max_pairs(
            self.config,
            self.objective,
            self.histogram,
            self.target.memory,
            world_size=self.world_size,
            cuda=self.target.is_gpu,
        )

    def fits(self) -> bool | None:
        capacity = self.target.memory
        return None if capacity is None else self.memory().total <= capacity * (1 - MARGIN)

    def step_time(self) -> tuple[StepsPlan, StepTime]:
        return step_time(self.config, self.objective, self.histogram, world_size=self.world_size, target=self.target)


def plan_run(
    config: PretrainConfig,
    objective: Objective,
    histogram: Mapping[int, int],
    *,
    world_size: int,
    target: Target,
    assumed: bool = False,
) -> Plan:
    """Compute the plan of a run.

    Args:
        config: configuration of the run.
        objective: objective of the run.
        histogram: atoms → molecules of the training split.
        world_size: number of ranks.
        target: device of each rank.
        assumed: the histogram does not come from a store: sizes are assumed, and the number of molecules is unknown.

    Raises:
        ConfigError: the batch does not divide among the ranks, or ``data.max_pairs`` is too small for a molecule.
    """
    check_division(config.train.global_batch_size, world_size)
    given = config.zero.stage
    config = with_stage(config, objective, histogram, target.memory, world_size=world_size, cuda=target.is_gpu)
    asked = _Case(config=config, objective=objective, histogram=histogram, world_size=world_size, target=target)
    case = asked.settled()
    check_budget(max(histogram), case.config.data.pair_budget)
    count = _build_on_meta(config, objective)
    molecules, train = sum(histogram.values()), config.train
    steps, time = case.step_time()
    stages = {stage: _at_stage(asked, stage) for stage in STAGES}
    recommended = _recommended(config.zero.stage_used, world_size, stages)
    checkpoint, kept = checkpoint_bytes(config, count.total), train.keep_checkpoints + len(train.keep_steps) + 2
    return Plan(
        name=config.name,
        size=config.size,
        objective=config.objective.name,
        precision=train.precision,
        optimizer=train.optimizers,
        muon_share=count_hidden(config.model, train.tracks_of_muon) / count.total,
        zero_stage=config.zero.stage_used,
        zero_stage_chosen=given is None,
        zero_config=config.zero.config,
        world_size=world_size,
        target=target,
        parameters=count.as_dict(),
        shape=case.shape(),
        memory=case.memory(),
        fit=_fit(case),
        max_pairs=case.config.data.pair_budget,
        max_pairs_chosen=config.data.max_pairs is None,
        data=DataPlan(
            path=None if assumed else config.data.path,
            molecules=None if assumed else molecules,
            mean_atoms=sum(n * rows for n, rows in histogram.items()) / molecules,
            smallest=min(histogram),
            largest=max(histogram),
        ),
        steps=replace(steps, epochs=None) if assumed else steps,
        time=time,
        compute=_compute(case, time),
        stages=tuple(stages.values()),
        recommended_stage=recommended,
        fewest_ranks=_fewest_ranks(_with_stage(asked, recommended), stages[recommended].seconds_per_step),
        checkpoint_bytes=checkpoint,
        checkpoints_kept=kept,
        disk_bytes=checkpoint * kept + count.total * _MODEL_BYTES,
    )


def _compute(case: _Case, time: StepTime) -> ComputePlan:
    train, model = case.config.train, case.config.model
    flops = train.global_batch_size * mean_flops(lambda n: case.objective.training_flops(model, n), case.histogram)
    steps = case.config.own_steps
    seconds = time.seconds * steps
    return ComputePlan(
        flops_per_step=flops,
        flops=flops * steps,
        seconds_per_step=time.seconds,
        days=seconds / SECONDS_A_DAY,
        device_hours=seconds * case.world_size / 3600.0,
        mfu=flops / (case.world_size * case.target.peak_flops * time.seconds),
    )


def _with_stage(asked: _Case, stage: Stage) -> _Case:
    """Return the case at another stage."""
    return asked if stage == asked.config.zero.stage_used else replace(asked, config=_staged(asked.config, stage))


def _staged(config: PretrainConfig, stage: Stage) -> PretrainConfig:
    """Return a run at another stage, without a DeepSpeed settings file and what needs whole weights at stage 3.

    Such a file is written for one stage.
    """
    train = config.train
    if stage == 3:
        train = replace(train, cuda_graphs=False, side_by_side=train.side_by_side and 1)
    return replace(config, train=train, zero=ZeroConfig(stage=stage))


def _at_stage(asked: _Case, stage: Stage) -> StageOption:
    case = _with_stage(asked, stage).settled()
    return StageOption(
        stage=stage,
        fits=case.fits(),
        max_pairs=case.config.data.pair_budget,
        memory=case.memory().total,
        seconds_per_step=case.step_time()[1].seconds,
    )


def _recommended(current: Stage, world_size: int, options: Mapping[Stage, StageOption]) -> Stage:
    fitting = [option for option in options.values() if option.fits]
    if not fitting or world_size == 1:
        return current
    fastest = min(option.seconds_per_step for option in fitting)
    good = {option.stage for option in fitting if option.seconds_per_step <= fastest * _AS_FAST}
    return next(stage for stage in (current, *_PREFERRED) if stage in good)


def _fewest_ranks(asked: _Case, seconds: float) -> int:
    """Return the fewest ranks, by repeated halving, with which a step takes about as long and fits in memory."""
    fewest, ranks = asked.world_size, asked.world_size
    while asked.target.is_gpu and ranks % 2 == 0:
        ranks //= 2
        case = replace(asked, world_size=ranks).settled()
        if not case.fits() or case.step_time()[1].seconds > _AS_FAST * seconds:
            break
        fewest = ranks
    return fewest


def check_division(batch: int, world_size: int) -> None:
    """Raise unless the batch divides among the ranks.

    Raises:
        ConfigError: the message names the nearest valid batch sizes and numbers of ranks.
    """
    if batch % world_size == 0:
        return
    below, above = batch // world_size * world_size, -(-batch // world_size) * world_size
    batches = " or ".join(str(size) for size in (below, above) if size)
    small = [ranks for ranks in range(1, math.isqrt(batch) + 1) if batch % ranks == 0]
    divisors = sorted({*small, *(batch // ranks for ranks in small)})
    fewer, more = max(r for r in divisors if r < world_size), [r for r in divisors if r > world_size]
    ranks = " or ".join(map(str, [fewer, *more[:1]]))
    raise ConfigError(
        f"train.global_batch_size {batch} is not a multiple of the {world_size} ranks; nearest: "
        f"train.global_batch_size={batches}, or {ranks} ranks"
    )


def _build_on_meta(config: PretrainConfig, objective: Objective) -> ParameterCount:
    """Build the whole model on the meta device, without memory, and return its parameters by group.

    The total must equal the accounting's; a difference is a defect in one of the two.
    """
    with torch.device("meta"):
        model = objective.build_model(config.model)
    total = sum(parameter.numel() for parameter in model.parameters())
    count = objective.count_parameters(config.model)
    assert total == count.total, f"the model has {total} parameters, accounting says {count.total}"
    return count


def _fit(case: _Case) -> FitPlan:
    if case.target.memory is None:
        return FitPlan(fits=None, max_pairs=None, remedies=())
    found = case.fitting_max_pairs()
    return FitPlan(fits=case.fits(), max_pairs=found, remedies=() if found is not None else _remedies(case))


def _remedies(case: _Case) -> tuple[str, ...]:
    """Return the single changes with which the largest molecule fits, or else the smallest combination of changes."""
    config, world_size = case.config, case.world_size
    stage_3 = ("zero.stage=3", _staged(config, 3), world_size)
    recomputed = ("model.checkpoint_every=1", _recomputing(config), world_size)
    batch = config.train.global_batch_size
    more = [ranks for ranks in range(world_size + 1, min(batch, _MOST_RANKS) + 1) if batch % ranks == 0]
    single = [stage_3] * (config.zero.stage_used < 3) + [recomputed] * (config.model.checkpoint_every != 1)

    def holds(changed: PretrainConfig, ranks: int) -> bool:
        return replace(case, config=changed, world_size=ranks).fitting_max_pairs() is not None

    remedies = [name for name, changed, ranks in single if holds(changed, ranks)]
    enough = next((ranks for ranks in more if holds(config, ranks)), None)
    if enough is not None:
        remedies.append(f"{enough} ranks")
    if remedies:
        return tuple(remedies)
    everything = _recomputing(stage_3[1] if config.zero.stage_used < 3 else config)
    names = [name for name, _, _ in single]
    if holds(everything, world_size):
        return (" and ".join(names),)
    enough = next((ranks for ranks in more if holds(everything, ranks)), None)
    return (" and ".join([*names, f"{enough} ranks"]),) if enough is not None else ()


def _recomputing(config: PretrainConfig) -> PretrainConfig:
    return replace(config, model=replace(config.model, checkpoint_every=1))
