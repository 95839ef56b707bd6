"""Measures the speed of a run, the peak speed of the device, and the memory in use."""

import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from unimol_scale.model.kernels import product

T = TypeVar("T")
# Large enough to fill the device, small enough to take only a fraction of a second.
_CPU_SIZE, _CUDA_SIZE = 1536, 8192
_REPEATS = 5
_COPY_BYTES = 2**29
# Steps used to estimate the remaining time: recent enough to follow a change, many enough to be steady.
_RECENT_STEPS = 100


class Speedometer:
    """Measures training speed on this rank; time inside ``pause`` does not count.

    The loop takes its batches through ``feed``, calls ``step`` after every step, wraps validation and saving in
    ``pause``, and calls ``read`` at every log event.

    Args:
        peak: FLOP/s relative to which the model FLOPs utilisation (MFU) is reported, summed over the ranks.
        clock: returns increasing seconds.
    """

    def __init__(self, peak: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._peak = peak
        self._clock = clock
        self._mark = clock()
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._steps = 0
        self._pause_per_step: dict[str, float] = {}
        self._clear()

    def _clear(self) -> None:
        self._seconds = self._waited = self._flops = 0.0
        self._molecules = 0

    def feed(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and count the time between them as waiting for data."""
        iterator = iter(batches)
        while True:
            before = self._clock()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += self._clock() - before
            yield batch

    def step(self, molecules: int, flops: float) -> float:
        """Count a finished step.

        Args:
            molecules: molecules of the step over all ranks.
            flops: FLOPs of the step over all ranks.

        Returns:
            Seconds of the step, including the wait for its data but not pauses.
        """
        now = self._clock()
        seconds, self._mark = now - self._mark, now
        # The first step of a session allocates and compiles; once others exist, it is ignored.
        if self._steps == 1:
            self._recent.clear()
        self._recent.append(seconds)
        self._steps += 1
        self._seconds += seconds
        self._molecules += molecules
        self._flops += flops
        return seconds

    @contextmanager
    def pause(self, name: str, *, every: int) -> Iterator[None]:
        """Exclude the time inside the block from training time.

        Args:
            name: name of the activity.
            every: number of steps between two such pauses, for estimating the remaining time.
        """
        before = self._clock()
        yield
        seconds = self._clock() - before
        self._mark += seconds
        self._pause_per_step[name] = seconds / every

    def read(self) -> dict[str, float]:
        """Return the speed since the last reading, under an event's keys. At least one step must have been done since.

        ``molecules_per_second`` counts all ranks; ``mfu`` is the fraction of the peak; ``data_wait`` is the fraction of
        the time in which this rank waited for data.
        """
        assert self._seconds > 0.0, "read follows step"
        reading = {
            "molecules_per_second": self._molecules / self._seconds,
            "mfu": self._flops / self._seconds / self._peak,
            "data_wait": min(self._waited / self._seconds, 1.0),
        }
        self._clear()
        return reading

    def remaining(self, steps: int) -> float:
        """Return the seconds that ``steps`` more steps will take at the recent pace, pauses included."""
        assert self._recent, "remaining follows step"
        pace = sum(self._recent) / len(self._recent)
        return steps * (pace + sum(self._pause_per_step.values()))


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of the fastest of a few square matrix products on this rank's device and threads."""
    size = _CUDA_SIZE if device.type == "cuda" else _CPU_SIZE
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(_REPEATS):
        _synchronise(device)
        start = time.perf_counter()
        product(a, b)  # what the model itself calls
        _synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes a second that this rank's device reads and writes in the best of a few large copies."""
    source = torch.zeros(_COPY_BYTES, dtype=torch.uint8, device=device)
    copied = torch.empty_like(source)
    best = float("inf")
    for _ in range(_REPEATS):
        _synchronise(device)
        start = time.perf_counter()
        copied.copy_(source)
        _synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * _COPY_BYTES / best


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_bytes(device: torch.device) -> int:
    """Return the peak memory of this rank: of the device if it has its own, else of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return host_memory_bytes()


def host_memory_bytes() -> int:
    """Return the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
