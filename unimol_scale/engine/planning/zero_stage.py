"""Chooses ``zero.stage`` if not set: that of the run's folder, or 1 on GPUs that hold whole weights, or else 3."""

from collections.abc import Mapping
from dataclasses import replace

from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.planning.max_pairs import CHOSEN_MARGIN, recorded_number
from unimol_scale.engine.planning.rank_memory import fitting_max_pairs
from unimol_scale.engine.planning.rehearsal import device_bytes
from unimol_scale.engine.run.run_config import STAGES, PretrainConfig
from unimol_scale.objectives.base import Objective


def with_stage(
    config: PretrainConfig,
    objective: Objective,
    histogram: Mapping[int, int],
    capacity: float | None,
    *,
    world_size: int,
    cuda: bool,
) -> PretrainConfig:
    """Return the configuration with ``zero.stage`` chosen, if it is not set.

    Stage 1 keeps whole weights and gradients on every GPU and shares the optimizer, which is what the host of a GPU
    handles fastest. It is chosen if micro-batches of ``data.max_pairs`` fit beside them. Otherwise, on CPUs, and with a
    file of DeepSpeed settings, the stage is 3.

    Args:
        config: configuration of the run.
        objective: objective of the run.
        histogram: atoms → molecules of the training split.
        capacity: bytes of the smallest device; None: unknown.
        world_size: number of ranks.
        cuda: whether the devices are GPUs.
    """
    if config.zero.stage is not None:
        return config
    if not cuda or capacity is None or config.zero.config is not None:
        return _at(config, 3)
    sharing = _at(config, 1)
    fitting = fitting_max_pairs(
        sharing, objective, histogram, capacity, world_size=world_size, cuda=True, margin=CHOSEN_MARGIN
    )
    whole_batch = (max(histogram) + 1) ** 2 * config.train.global_batch_size
    return _at(config, 1 if (fitting or 0) >= min(config.data.pair_budget, whole_batch) else 3)


def _at(config: PretrainConfig, stage: int) -> PretrainConfig:
    chosen = next(known for known in STAGES if known == stage)
    return replace(config, zero=replace(config.zero, stage=chosen))


def with_stage_used(config: PretrainConfig) -> PretrainConfig:
    """Return the configuration with the ``zero.stage`` of the run in its folder, if it does not set one itself.

    Raises:
        ConfigError: the folder's configuration cannot be read.
    """
    used = None if config.zero.stage is not None else recorded_number(config, "zero", "stage")
    return config if used is None else _at(config, used)


def with_stage_here(
    config: PretrainConfig, objective: Objective, histogram: Mapping[int, int], ranks: Ranks
) -> PretrainConfig:
    """Return the configuration of a starting run, with ``zero.stage``.

    If it is not set, it is that of the run in the folder, or else what suits the smallest device of any rank.

    Args:
        config: configuration of the run.
        objective: objective of the run.
        histogram: atoms → molecules of the training split.
        ranks: this process among the others; every rank calls this.

    Raises:
        ConfigError: the folder's configuration cannot be read.
    """
    config = with_stage_used(config)
    cuda, world_size = ranks.device.type == "cuda", ranks.world_size
    if config.zero.stage is not None or not cuda:
        return with_stage(config, objective, histogram, None, world_size=world_size, cuda=cuda)
    known = [float(size) for size in ranks.gather(device_bytes(ranks)) if size is not None]
    capacity = min(known, default=None)
    return with_stage(config, objective, histogram, capacity, world_size=world_size, cuda=cuda)
