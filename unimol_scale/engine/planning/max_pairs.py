"""Chooses ``zero.stage``, ``data.max_pairs`` and ``train.side_by_side`` if not set: from the run, or what fits."""

from collections.abc import Mapping
from dataclasses import replace

from unimol_scale.common.machine import threads
from unimol_scale.common.plugins import is_reference
from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.config import read_yaml
from unimol_scale.engine.parallel.ranks import Ranks, granted_cores
from unimol_scale.engine.planning.rank_memory import MARGIN, fitting_max_pairs
from unimol_scale.engine.planning.rehearsal import device_bytes
from unimol_scale.engine.run.run_config import STAGES, PretrainConfig
from unimol_scale.objectives.base import Objective

# Fraction of a device that stays free. It is larger than MARGIN, since the user did not ask to go near the limit, and
# micro-batches of ever new shapes fragment memory throughout a run.
CHOSEN_MARGIN = 0.2
# Micro-batches computed at once. Each needs memory of its own; they share any further threads.
_MOST_AT_ONCE = 8


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
    capacity = _smallest_device(ranks)
    return with_stage(config, objective, histogram, capacity, world_size=world_size, cuda=cuda)


def with_max_pairs(
    config: PretrainConfig,
    objective: Objective,
    histogram: Mapping[int, int],
    capacity: float | None,
    *,
    world_size: int,
    cuda: bool,
) -> PretrainConfig:
    """Return the configuration with ``data.max_pairs`` chosen to fill a GPU's memory, if it is not set.

    On a CPU, larger micro-batches are no faster and the memory estimate for GPUs does not apply, so the default stays.

    Args:
        config: configuration of the run.
        objective: objective of the run.
        histogram: atoms → molecules of the training split.
        capacity: bytes of the device; None: unknown.
        world_size: number of ranks.
        cuda: whether the device is a GPU.
    """
    if config.data.max_pairs is not None:
        return config
    chosen = config.data.pair_budget
    if cuda and capacity is not None:
        fitting = (
            fitting_max_pairs(config, objective, histogram, capacity, world_size=world_size, cuda=cuda, margin=margin)
            for margin in (CHOSEN_MARGIN, MARGIN)
        )
        # If nothing fits, the message must say how much memory is missing.
        chosen = next(filter(None, fitting), max(chosen, (max(histogram) + 1) ** 2))
    return replace(config, data=replace(config.data, max_pairs=chosen))


def with_max_pairs_used(config: PretrainConfig) -> PretrainConfig:
    """Return the configuration with the ``data.max_pairs`` of the run in its folder, if it does not set one itself.

    A resumed run cuts its batches as before, even on devices with more or less memory.

    Raises:
        ConfigError: the folder's configuration cannot be read.
    """
    used = None if config.data.max_pairs is not None else recorded_number(config, "data", "max_pairs")
    return config if used is None else replace(config, data=replace(config.data, max_pairs=used))


def recorded_number(config: PretrainConfig, group: str, name: str) -> int | None:
    """Return a number that the run in the folder chose by itself; None if there is no run or no such number.

    Raises:
        ConfigError: the folder's configuration cannot be read.
    """
    written = config.output / CONFIG_NAME
    settings = read_yaml(written)[0].get(group) if written.is_file() else None
    used = settings.get(name) if isinstance(settings, Mapping) else None
    return used if isinstance(used, int) else None


def with_max_pairs_here(
    config: PretrainConfig, objective: Objective, histogram: Mapping[int, int], ranks: Ranks
) -> PretrainConfig:
    """Return the configuration of a starting run, with ``data.max_pairs``.

    If it is not set, it is that of the run in the folder, or else what fits on the smallest device of any rank.

    Args:
        config: configuration of the run.
        objective: objective of the run.
        histogram: atoms → molecules of the training split.
        ranks: this process among the others; every rank calls this.

    Raises:
        ConfigError: the folder's configuration cannot be read.
    """
    config = with_max_pairs_used(config)
    cuda, world_size = ranks.device.type == "cuda", ranks.world_size
    if config.data.max_pairs is not None or not cuda:
        return with_max_pairs(config, objective, histogram, None, world_size=world_size, cuda=cuda)
    capacity = _smallest_device(ranks)
    return with_max_pairs(config, objective, histogram, capacity, world_size=world_size, cuda=cuda)


def with_side_by_side_here(config: PretrainConfig, ranks: Ranks) -> PretrainConfig:
    """Return the configuration of a starting run, with ``train.side_by_side``.

    If it is not set, it is that of the run in the folder, because it determines how a batch is cut, or else what the
    rank with the fewest cores allows.

    Args:
        config: configuration of the run.
        ranks: this process among the others; every rank calls this.

    Raises:
        ConfigError: the folder's configuration cannot be read.
    """
    if config.train.side_by_side is None and (used := recorded_number(config, "train", "side_by_side")) is not None:
        config = replace(config, train=replace(config.train, side_by_side=used))
    if config.train.side_by_side is not None:
        return config
    cores = min(ranks.gather(threads.given_threads() or granted_cores(ranks)))
    return with_side_by_side(config, cores, world_size=ranks.world_size, cuda=ranks.device.type == "cuda")


def with_side_by_side(config: PretrainConfig, cores: int, *, world_size: int, cuda: bool) -> PretrainConfig:
    """Return the configuration with ``train.side_by_side``, if not set, equal to the number of cores per rank.

    Args:
        config: configuration of the run.
        cores: cores that every rank may use.
        world_size: number of ranks.
        cuda: whether ranks use GPUs, which compute one micro-batch after another.
    """
    if config.train.side_by_side is not None:
        return config
    one = cuda or config.zero.stage_used == 3 or draws_while_training(config)
    most = min(_MOST_AT_ONCE, config.train.global_batch_size // world_size)
    number = 1 if one else max(1, min(cores, most))
    return replace(config, train=replace(config.train, side_by_side=number))


def draws_while_training(config: PretrainConfig) -> bool:
    """Return whether random numbers are, or may be, drawn during the computation of a micro-batch."""
    parts = (config.objective.name, *config.objective.mixture)
    return config.model.has_dropout or any(is_reference(name) for name in parts)


def _smallest_device(ranks: Ranks) -> float | None:
    """Return the bytes of the smallest device of any rank; None if no rank knows. Every rank calls this."""
    known = [float(size) for size in ranks.gather(device_bytes(ranks)) if size is not None]
    return min(known, default=None)
