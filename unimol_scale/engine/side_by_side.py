"""Computes the micro-batches of a step side by side on the CPU threads of a rank, and adds up their gradients.

Threads inside one operation wait for each other at its end, and the operations of a small model are short; a core that
another program takes away for a moment holds up all of them. Micro-batches share only the weights, which a step reads,
and the interpreter's lock, which operations release. Each has gradients of its own, which are added in the order of the
micro-batches, so that a result depends neither on which thread is the fastest nor on how many there are.

Shapes: M micro-batches, T loss terms.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from unimol_scale.common.machine.devices import set_own_threads
from unimol_scale.engine.parallel.sharded_model import ShardedModel
from unimol_scale.objectives.base import Sample

# Loss term → its sum over a micro-batch.
Sums = Mapping[str, Tensor]
# The gradient of every parameter, in the order of ``module.parameters()``; None: the loss does not depend on it.
Gradients = list[Tensor | None]


class SideBySide:
    """Computes micro-batches at once, in threads that live as long as this does.

    Args:
        model: its weights are whole on this rank; dropout, if it has any, is off: threads would draw in any order.
        complete: makes a loaded sample ready for the model.
        at_once: micro-batches that are computed at the same time.
    """

    def __init__(self, model: ShardedModel, complete: Callable[[Sample], Sample], at_once: int) -> None:
        assert model.has_whole_weights
        self._model = model
        self._complete = complete
        self._parameters = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
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

    def __call__(self, samples: Sequence[Sample], loss_of: Callable[[Sums], Tensor]) -> list[Sums]:
        """Add the gradients of micro-batches to the model's, and return their sums, without a gradient, in order.

        Args:
            samples: M micro-batches.
            loss_of: the share of the global loss that the sums of a micro-batch are.
        """
        waiting: deque[Future[tuple[Sums, Gradients]]] = deque()
        todo = iter(samples)
        total: Gradients = [None] * len(self._parameters)
        found: list[Sums] = []
        try:
            for sample in todo:
                waiting.append(self._pool.submit(self._differentiate, sample, loss_of))
                # Not all at once: every result that waits for its turn to be added holds gradients.
                if len(waiting) > self._at_once:
                    found.append(_add(total, waiting.popleft()))
            while waiting:
                found.append(_add(total, waiting.popleft()))
        finally:
            for future in waiting:
                future.cancel()
        self._model.add_gradients(total)
        return found

    def _differentiate(self, sample: Sample, loss_of: Callable[[Sums], Tensor]) -> tuple[Sums, Gradients]:
        sums = self._model.module(self._complete(sample))
        gradients = torch.autograd.grad(loss_of(sums), self._parameters, allow_unused=True)
        return {name: value.detach() for name, value in sums.items()}, list(gradients)


def _add(total: Gradients, future: "Future[tuple[Sums, Gradients]]") -> Sums:
    """Add the gradients of a micro-batch to the total, once they are there, and return its sums."""
    sums, gradients = future.result()
    for index, gradient in enumerate(gradients):
        before = total[index]
        if before is None or gradient is None:
            total[index] = gradient if before is None else before
        else:
            total[index] = before + gradient  # not in place: autograd may give two parameters the same tensor
    return sums
