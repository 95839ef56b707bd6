"""How much a verb takes at once on the device that it computes on."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from unimol_scale.common.machine import threads
from unimol_scale.common.machine.devices import refusing_full_memory
from unimol_scale.data.steps.micro_batches import check_budget
from unimol_scale.errors import ConfigError

# Padded pairs of a micro-batch: on a CPU larger ones leave the caches and are slower, a GPU wants to be filled.
_CPU_PAIRS, _GPU_PAIRS = 10_000, 200_000
# For what computes on micro-batches.
within_memory = refusing_full_memory(
    "Lower the memory budget of a micro-batch (--max-pairs, in a fine-tuning train.max_pairs), or free the device"
)


def use_granted_cores() -> None:
    """Compute with as many CPU threads as the user set, else as there are cores that this process may use."""
    torch.set_num_threads(threads.given_threads() or threads.usable_cores())


@contextlib.contextmanager
def threads_of(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Compute inside with no more CPU threads than the size of a model can use, and with as many as before after it.

    Args:
        model: that is trained or run.
        device: that it computes on; a GPU's host threads stay as they are.
    """
    before = torch.get_num_threads()
    if device.type == "cpu":
        parameters = sum(parameter.numel() for parameter in model.parameters())
        torch.set_num_threads(min(before, threads.threads_for(parameters, before)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pair_budget(chosen: int | None, device: torch.device, largest: int) -> int:
    """Return the most padded pairs Σ(n+1)² of one micro-batch: what was chosen, else what suits the device.

    Args:
        chosen: None leaves it to the device; then the largest molecule always fits.
        device: that computes.
        largest: atoms of the largest molecule.

    Raises:
        ConfigError: what was chosen is no size, or does not hold the largest molecule.
    """
    if chosen is not None:
        if chosen < 1:
            raise ConfigError(f"max_pairs must be at least 1, got {chosen}")
        check_budget(largest, chosen, "max_pairs")
        return chosen
    return max(_GPU_PAIRS if device.type == "cuda" else _CPU_PAIRS, (largest + 1) ** 2)
