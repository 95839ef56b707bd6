"""Computes the micro-batches of a step side by side on the CPU threads of a rank, and adds up their gradients.

Threads inside one operation wait for each other at its end, and the operations of a small model are short; a core that
another program takes away for a moment holds up all of them. Micro-batches share only the weights, which a step reads,
and the interpreter's lock, which operations release. Each has gradients of its own, which are added in the order of the
micro-batches, so that a result depends neither on which thread is the fastest nor on how many there are.
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
# The gradient of every parameter, in the order that the parameters were given in; None: no loss depends on it.
Gradients = list[Tensor | None]


class SideBySide:
    """Computes micro-batches at once, in threads that live as long as this does.

    Args:
        parameters: what the losses are differentiated for; whole on this rank.
        at_once: micro-batches that are computed at the same time.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], at_once: int) -> None:
        self._parameters = list(parameters)
        self._at_once = at_once
        self._pool = ThreadPoolExecutor(at_once, "micro-batch")
        before = torch.get_num_threads()
        met = threading.Barrier(at_once)

        def prepare() -> None:
            set_own_threads(max(1, before // at_once))
            met.wait()  # no thread takes two of these

        for future in [self._pool.submit(prepare) for _ in range(at_once)]:
            future.result()
        torch.set_num_threads(before)  # the setting of a pool's thread holds for threads that start later, too

    def __call__(
        self, samples: Sequence[Sample], loss_of: Callable[[Sample], tuple[Tensor, Result]]
    ) -> tuple[list[Result], Gradients]:
        """Return what was found in each micro-batch, in order, and the gradient of the sum of their losses.

        Args:
            samples: micro-batches.
            loss_of: returns the loss of one, and what else is wanted of it, which must hold no graph. It is called in
                several threads, and must not draw random numbers from torch's own generator, whose order these share.
        """
        waiting: deque[Future[tuple[Result, Gradients]]] = deque()
        total: Gradients = [None] * len(self._parameters)
        found: list[Result] = []
        try:
            for sample in samples:
                waiting.append(self._pool.submit(self._differentiate, sample, loss_of))
                # Not all at once: every result that waits for its turn to be added holds gradients.
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
    """Add the gradients of a micro-batch to the total, once they are there, and return what was found in it."""
    result, gradients = future.result()
    for index, gradient in enumerate(gradients):
        before = total[index]
        if before is None or gradient is None:
            total[index] = gradient if before is None else before
        else:
            total[index] = before + gradient  # not in place: autograd may give two parameters the same tensor
    return result
