"""The ranks that torchrun started a command with, for fine-tuning and embedding."""

import logging
import os

import torch

from unimol_scale.engine.parallel.ranks import Ranks, granted_cores, start_ranks
from unimol_scale.errors import ConfigError

# Ranks wait for the first one while it fits baselines, searches or writes.
_TIMEOUT_MINUTES = 24 * 60.0


def launched_ranks(device: str) -> Ranks | None:
    """Join the other ranks of a command that torchrun started; None if it was started alone.

    Args:
        device: that was asked for; each rank takes the GPU with its own number if there are any.

    Raises:
        ConfigError: ranks cannot meet, or the CPU is asked for where there are GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    ranks = start_ranks(_TIMEOUT_MINUTES)
    if device == "cpu" and ranks.device.type != "cpu":
        raise ConfigError("--device cpu: the ranks of torchrun take a GPU each; hide them with CUDA_VISIBLE_DEVICES=")
    if ranks.device.type == "cpu":
        torch.set_num_threads(granted_cores(ranks))
    if not ranks.is_main:
        logging.getLogger("unimol_scale").setLevel(logging.ERROR)  # one of them speaks
    return ranks
