"""Computes micro-batches on a device: their largest size, the CPU threads of each, and how many run at once.

On a CPU several micro-batches are computed at the same time, each on a few threads, while the next ones are read. Many
threads inside one operation would spend much time waiting for each other, because the operations of a small model are
short. Concurrent micro-batches share only the interpreter's lock, which operations release.
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

# Padded pairs per micro-batch: on a CPU, larger ones do not fit into the caches; a GPU is idle with smaller ones.
_CPU_PAIRS, _GPU_PAIRS = 10_000, 200_000
# Largest number of concurrent micro-batches, since each needs its own memory; further threads are shared among them.
_MOST_CONCURRENT = 8
# Decorator: turns an out-of-memory error into an error that says what to lower.
explain_full_memory = refusing_full_memory(
    "Lower the memory budget of a micro-batch (--max-pairs, in a fine-tuning train.max_pairs), or free the device"
)


def use_granted_cores() -> None:
    """Set torch's number of CPU threads to the user's setting, else to the cores available to this process."""
    torch.set_num_threads(threads.given_threads() or threads.usable_cores())


@contextlib.contextmanager
def limited_threads(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Limit torch to the number of CPU threads that a model of this size can use, inside the block only.

    Args:
        model: model that is trained or run.
        device: device that computes; on a GPU the number of threads is not changed.
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
    """Return the largest number of padded pairs Σ(n+1)² per micro-batch of molecules with n atoms.

    Args:
        chosen: the user's choice; None: a number that suits the device and the largest molecule.
        device: device that computes.
        largest: number of atoms of the largest molecule.

    Raises:
        ConfigError: the choice is below 1, or too small for the largest molecule.
    """
    if chosen is not None:
        if chosen < 1:
            raise ConfigError(f"max_pairs must be at least 1, got {chosen}")
        check_budget(largest, chosen, "max_pairs")
        return chosen
    return max(_GPU_PAIRS if device.type == "cuda" else _CPU_PAIRS, (largest + 1) ** 2)


def concurrency_of(device: torch.device) -> tuple[int, int]:
    """Return the number of micro-batches computed at once on a device, and the number of CPU threads of each."""
    num_threads = torch.get_num_threads()
    concurrent = most_concurrent(num_threads) if device.type == "cpu" else 1
    return concurrent, num_threads // concurrent


def most_concurrent(num_threads: int) -> int:
    """Return the number of micro-batches that so many CPU threads compute at once."""
    return min(num_threads, _MOST_CONCURRENT)


def map_concurrently(work: Callable[[Item], Result], items: Iterable[Item], device: torch.device) -> Iterator[Result]:
    """Yield ``work(item)`` for every item, in the order of the items.

    Args:
        work: function called in other threads, where modes of the caller such as ``torch.no_grad`` are not active.
        items: arguments of ``work``; read in the caller's thread, as results are consumed.
        device: device on which ``work`` computes.

    Raises:
        Exception: any error of ``work`` or ``items``; work that has not started is cancelled.
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
        torch.set_num_threads(before)  # threads that start later would inherit the setting of the pool's threads
