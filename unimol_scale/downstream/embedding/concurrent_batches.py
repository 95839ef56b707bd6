"""Micro-batches side by side: on a CPU several at once, each on few threads, while the next ones are being read.

Threads inside an operation wait for one another at its end, and a small model's operations are short. Whole
micro-batches share nothing but the interpreter, which operations do not hold.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# Each holds the memory of a micro-batch; with more threads than this, every lane has several.
_MAX_LANES = 8


def lanes_of(device: torch.device) -> tuple[int, int]:
    """Return how many micro-batches are computed at once on a device, and by how many CPU threads each."""
    threads = torch.get_num_threads()
    lanes = min(threads, _MAX_LANES) if device.type == "cpu" else 1
    return lanes, threads // lanes


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], device: torch.device) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in their order.

    Args:
        work: is called in threads of its own, where modes such as ``torch.no_grad`` of the caller do not hold.
        items: are taken in the caller's thread, as results are asked for.
        device: that the work computes on.

    Raises:
        Exception: what the work or the items raise; work that was not begun yet is dropped.
    """
    lanes, threads = lanes_of(device)
    before = torch.get_num_threads()
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(lanes, "lane", initializer=torch.set_num_threads, initargs=(threads,))
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * lanes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # a lane's setting is also that of threads which begin later
