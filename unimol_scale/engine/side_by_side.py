"""Computes the micro-batches of a step side by side on the CPU threads of a rank, and adds up their gradients.

Threads inside one operation wait for each other at its end, and the operations of a small model are short, so one core
that another program takes briefly delays all of them. Micro-batches share only the weights, which a step reads, and the
interpreter's lock, which operations release. Each micro-batch has its own gradients, which are added in the order of
the micro-batches, so the result depends neither on thread timing nor on the number of threads.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

from unimol_scale.common.machine.devices import set_own_threads

Sample = TypeVar("Sample")
Result = TypeVar("Result")
# Gradient of every parameter, in the order of the parameters; None: no loss depends on it.
Gradients = list[Tensor | None]


class SideBySide:
    """Computes several micro-batches at once, in threads that live as long as this object.

    Args:
        parameters: parameters to differentiate for; whole on this rank.
        at_once: number of micro-batches computed at the same time.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], at_once: int) -> None:
        self._parameters = list(parameters)
        self._at_once = at_once
        self._pool = ThreadPoolExecutor(at_once, "micro-batch")
        before = torch.get_num_threads()
        met = threading.Barrier(at_once)

        def prepare() -> None:
            set_own_threads(max(1, before // at_once))
            met.wait()  # so that no thread takes two of these jobs

        for future in [self._pool.submit(prepare) for _ in range(at_once)]:
            future.result()
        torch.set_num_threads(before)  # a pool thread's setting also applies to threads started later

    def __call__(
        self, samples: Sequence[Sample], loss_of: Callable[[Sample], tuple[Tensor, Result]]
    ) -> tuple[list[Result], Gradients]:
        """Return the result of each micro-batch, in order, and the gradient of the sum of their losses.

        Args:
            samples: micro-batches.
            loss_of: returns the loss of a micro-batch, and a result that must not hold a graph. It is called in several
                threads and must not draw from torch's default generator, which they share in no fixed order.
        """
        waiting: deque[Future[tuple[Result, Gradients]]] = deque()
        total: Gradients = [None] * len(self._parameters)
        found: list[Result] = []
        try:
            for sample in samples:
                waiting.append(self._pool.submit(self._differentiate, sample, loss_of))
                # Submitted gradually, because every result that waits to be added holds gradients.
                if len(waiting) > self._at_once:
                    found.append(_add(total, waiting.popleft()))
            while waiting:
                found.append(_add(total, waiting.popleft()))
        finally:
            for future in waiting:
                future.cancel()
        return found, total

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _differentiate(
        self, sample: Sample, loss_of: Callable[[Sample], tuple[Tensor, Result]]
    ) -> tuple[Result, Gradients]:
        loss, result = loss_of(sample)
        return result, list(torch.autograd.grad(loss, self._parameters, allow_unused=True))


def _add(total: Gradients, future: "Future[tuple[Result, Gradients]]") -> Result:
    """Add a micro-batch's gradients to the total as soon as they are ready, and return its result."""
    result, gradients = future.result()
    for index, gradient in enumerate(gradients):
        before = total[index]
        if before is None or gradient is None:
            total[index] = gradient if before is None else before
        else:
            total[index] = before + gradient  # not in place: autograd may give two parameters the same tensor
    return result
