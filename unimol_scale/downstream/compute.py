"""How micro-batches are computed on a device: how large they may be, on how many CPU threads, and how many at once.

On a CPU several micro-batches are computed at the same time, each on few threads, while the next ones are read. Threads
inside one operation wait for each other at its end, and the operations of a small model are short; micro-batches share
only the interpreter's lock, which operations release.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

from unimol_scale.common.machine import threads
from unimol_scale.common.machine.devices import refusing_full_memory, set_own_threads
from unimol_scale.data.steps.micro_batches import check_budget
from unimol_scale.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Padded pairs of a micro-batch: on a CPU, larger ones do not fit the caches; on a GPU, smaller ones leave it idle.
_CPU_PAIRS, _GPU_PAIRS = 10_000, 200_000
# Micro-batches computed at once: each needs memory of its own; further threads are shared among them.
_MOST_CONCURRENT = 8
# Decorator: a device whose memory is full becomes an error that says what to lower.
explain_full_memory = refusing_full_memory(
    "Lower the memory budget of a micro-batch (--max-pairs, in a fine-tuning train.max_pairs), or free the device"
)


def use_granted_cores() -> None:
    """Compute with as many CPU threads as the user set, else as there are cores that this process may use."""
    torch.set_num_threads(threads.given_threads() or threads.usable_cores())


@contextlib.contextmanager
def limited_threads(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Limit torch to as many CPU threads as a model of this size can use, inside the block only.

    Args:
        model: that is trained or run.
        device: that computes; with a GPU the number of threads stays.
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
    """Return the most padded pairs Σ(n+1)² of one micro-batch: the user's choice, else what suits the device.

    Args:
        chosen: by the user; None takes what suits the device, and at least the largest molecule.
        device: that computes.
        largest: atoms of the largest molecule.

    Raises:
        ConfigError: the choice is below 1, or does not hold the largest molecule.
    """
    if chosen is not None:
        if chosen < 1:
            raise ConfigError(f"max_pairs must be at least 1, got {chosen}")
        check_budget(largest, chosen, "max_pairs")
        return chosen
    return max(_GPU_PAIRS if device.type == "cuda" else _CPU_PAIRS, (largest + 1) ** 2)


def concurrency_of(device: torch.device) -> tuple[int, int]:
    """Return how many micro-batches are computed at once on a device, and by how many CPU threads each."""
    num_threads = torch.get_num_threads()
    concurrent = min(num_threads, _MOST_CONCURRENT) if device.type == "cpu" else 1
    return concurrent, num_threads // concurrent


def map_concurrently(work: Callable[[Item], Result], items: Iterable[Item], device: torch.device) -> Iterator[Result]:
    """Yield ``work(item)`` for every item, in the order of the items.

    Args:
        work: is called in other threads, where modes of the caller such as ``torch.no_grad`` do not hold.
        items: are read in the caller's thread, as results are asked for.
        device: that the work computes on.

    Raises:
        Exception: whatever the work or the items raise; work that has not started is dropped.
    """
    concurrent, threads_each = concurrency_of(device)
    before = torch.get_num_threads()
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(concurrent, "micro-batch", initializer=set_own_threads, initargs=(threads_each,))
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * concurrent:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # the setting of a pool's thread holds for threads that start later, too
