"""Chooses the padded pairs of a micro-batch if ``data.max_pairs`` is not set: as in the run before, or by memory."""

from collections.abc import Mapping
from dataclasses import replace

from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.config import read_yaml
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.planning.rank_memory import MARGIN, fitting_max_pairs
from unimol_scale.engine.planning.rehearsal import device_bytes
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.objectives.base import Objective

# Share of a device that stays free, more than MARGIN: nobody has asked to go near the limit, and micro-batches of ever
# new shapes leave fragments for as long as a run lasts.
CHOSEN_MARGIN = 0.2


def with_max_pairs(
    config: PretrainConfig,
    objective: Objective,
    histogram: Mapping[int, int],
    capacity: float | None,
    *,
    world_size: int,
    cuda: bool,
) -> PretrainConfig:
    """Return the configuration with ``data.max_pairs``, where it is not set: what the memory of a GPU holds.

    On a CPU larger micro-batches are no faster, and what a GPU's estimate says does not hold there: the default stays.

    Args:
        config: of the run.
        objective: of the run.
        histogram: atoms → molecules of the training split.
        capacity: bytes of the device; None: not known.
        world_size: ranks.
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
        # Where nothing fits, what is to be said is how much is missing.
        chosen = next(filter(None, fitting), max(chosen, (max(histogram) + 1) ** 2))
    return replace(config, data=replace(config.data, max_pairs=chosen))


def with_max_pairs_used(config: PretrainConfig) -> PretrainConfig:
    """Return the configuration with the ``data.max_pairs`` of the run in its folder, if it sets none itself.

    A run that goes on cuts its batches as it did before, also on devices with another memory.

    Raises:
        ConfigError: the folder's configuration cannot be read.
    """
    written = config.output / CONFIG_NAME
    if config.data.max_pairs is not None or not written.is_file():
        return config
    data = read_yaml(written)[0].get("data")
    used = data.get("max_pairs") if isinstance(data, Mapping) else None
    return replace(config, data=replace(config.data, max_pairs=used)) if isinstance(used, int) else config


def with_max_pairs_here(
    config: PretrainConfig, objective: Objective, histogram: Mapping[int, int], ranks: Ranks
) -> PretrainConfig:
    """Return the configuration of a run that starts, with ``data.max_pairs``.

    Where it is not set it is that of the run in the folder, else what the smallest rank's device holds.

    Args:
        config: of the run.
        objective: of the run.
        histogram: atoms → molecules of the training split.
        ranks: this process among the others; every rank calls this.

    Raises:
        ConfigError: the folder's configuration cannot be read.
    """
    config = with_max_pairs_used(config)
    cuda, world_size = ranks.device.type == "cuda", ranks.world_size
    if config.data.max_pairs is not None or not cuda:
        return with_max_pairs(config, objective, histogram, None, world_size=world_size, cuda=cuda)
    known = [float(size) for size in ranks.gather(device_bytes(ranks)) if size is not None]
    capacity = min(known, default=None)
    return with_max_pairs(config, objective, histogram, capacity, world_size=world_size, cuda=cuda)
