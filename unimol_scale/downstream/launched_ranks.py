"""The ranks of a command started by torchrun, for fine-tuning and embedding."""

import logging
import os

import torch

from unimol_scale.engine.parallel.ranks import Ranks, granted_cores, start_ranks
from unimol_scale.errors import ConfigError

# The other ranks wait while the first one fits baselines, searches or writes.
_TIMEOUT_MINUTES = 24 * 60.0


def launched_ranks(device: str) -> Ranks | None:
    """Join the other ranks of a command started by torchrun; return None if it was started without torchrun.

    Args:
        device: requested device; if there are GPUs, each rank uses the one with its local number.

    Raises:
        ConfigError: the ranks cannot connect, or the CPU is requested although there are GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    ranks = start_ranks(_TIMEOUT_MINUTES)
    if device == "cpu" and ranks.device.type != "cpu":
        raise ConfigError("--device cpu: each rank of torchrun uses a GPU; hide the GPUs with CUDA_VISIBLE_DEVICES=")
    if ranks.device.type == "cpu":
        torch.set_num_threads(granted_cores(ranks))
    if not ranks.is_main:
        logging.getLogger("unimol_scale").setLevel(logging.ERROR)  # only the first rank prints messages
    return ranks
