"""Micro-batches that worker processes read and corrupt ahead of the trainer; a worker that dies is replaced.

An item of the dataset is one micro-batch, addressed by its step and molecules, so workers may prepare them in any order
with the same result. Steps are planned only in the rank, once each.
"""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, queues
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from unimol_scale.common.machine.system_limits import explain
from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.steps.planner import Reader, StepPlanner
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.data.transfer import Packed, pack
from unimol_scale.errors import RunError

SampleT = TypeVar("SampleT")
# What an objective does to a clean batch in a step.
Corruption = Callable[[MoleculeBatch, MoleculeKeys, int], SampleT]
# A step, and the molecules of one of its micro-batches.
Address = tuple[int, MoleculeKeys]
# The beginning of torch's message when a worker was killed rather than raised an error.
_DEAD_WORKER = "DataLoader worker (pid"
MAX_DEATHS = 5
_WARNINGS = "PYTHONWARNINGS"
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class MicroBatchDataset(Dataset[Packed[SampleT]], Generic[SampleT]):
    """Micro-batches, addressed by (step, keys of their molecules).

    Args:
        reader: reads the molecules.
        corruption: corruption of the objective.
    """

    def __init__(self, reader: Reader, corruption: Corruption[SampleT]) -> None:
        self._reader = reader
        self._corruption = corruption

    def __getitem__(self, address: Address) -> Packed[SampleT]:
        """Return a micro-batch: gathered, padded and corrupted."""
        step, keys = address
        packed = pack(self._corruption(self._reader.read(keys), keys, step))
        if get_worker_info() is not None:
            # The queue would do this later, in a thread whose errors nobody sees. Here a full /dev/shm raises an error.
            packed.block.share_memory_()  # type: ignore[no-untyped-call]
        return packed


class _Addresses(Sampler[Address]):
    """The micro-batches of one rank over consecutive steps, in order."""

    def __init__(self, planner: StepPlanner, first: int, last: int, *, rank: int, seed: int) -> None:
        self._planner, self._first, self._last = planner, first, last
        self._rank, self._seed = rank, seed

    def __iter__(self) -> Iterator[Address]:
        for step in range(self._first, self._last):
            self._planner.prefetch(step)
            molecule_G, epoch_G, plan = self._planner(step)
            for members in plan.of_rank(self._rank):
                yield step, MoleculeKeys(seed=self._seed, epoch_B=epoch_G[members], molecule_B=molecule_G[members])


class StepLoader(Generic[SampleT]):
    """Iterates over steps. Each is the list of this rank's micro-batches, prepared ahead by worker processes.

    Args:
        planner: step → molecules, epochs and micro-batch plan.
        reader: reads the molecules.
        corruption: corruption of the objective.
        rank: rank of this process.
        seed: seed of the run, for corruptions.
        workers: number of processes; 0 prepares micro-batches in this process.
        prefetch: micro-batches that each worker prepares ahead.
    """

    def __init__(
        self,
        planner: StepPlanner,
        reader: Reader,
        corruption: Corruption[SampleT],
        *,
        rank: int,
        seed: int,
        workers: int,
        prefetch: int,
    ) -> None:
        self._workers = workers
        self._prefetch = prefetch
        self._rank = rank
        self._seed = seed
        self.planner = planner
        self._dataset = MicroBatchDataset(reader, corruption)

    def steps(self, first: int, last: int) -> Iterator[list[SampleT]]:
        """Yield the micro-batches of the steps first, …, last − 1.

        A worker process that is killed from outside costs only time: its current micro-batches are prepared again.

        Raises:
            RunError: workers keep dying at the same micro-batch, or the system refuses them shared memory or open
                files.
        """
        step, deaths = first, 0
        while step < last:
            samples = iter(self._loader(step, last))
            try:
                while step < last:
                    yield [next(samples).unpack() for _ in range(self.planner(step)[2].per_rank)]
                    self.planner.forget(step)
                    step, deaths = step + 1, 0
            except (RuntimeError, OSError, EOFError) as error:
                if (line := explain(error)) is not None:
                    raise RunError(line) from error
                if not _is_death(error):
                    raise
                deaths += 1
                if deaths == MAX_DEATHS:
                    raise RunError(
                        f"loader processes died {deaths} times at step {step}: {error}. If memory ran out, lower "
                        "data.workers or data.prefetch"
                    ) from error
                warnings.warn(f"a loader process died at step {step} and was replaced: {error}", stacklevel=2)

    def _loader(self, first: int, last: int) -> DataLoader[Packed[SampleT]]:
        if self._workers:
            _start_loader_server()
        return DataLoader(
            self._dataset,
            batch_size=None,
            sampler=_Addresses(self.planner, first, last, rank=self._rank, seed=self._seed),
            num_workers=self._workers,
            prefetch_factor=self._prefetch if self._workers else None,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="forkserver" if self._workers else None,
            worker_init_fn=_prepare_worker,
        )


def _start_loader_server() -> None:
    """Start the server from which loader processes are forked, ignoring the signals that stop a run.

    A batch system or terminal sends these signals to every process, but the rank must save its state first. The
    server's children ignore them as well and end with their rank: see ``_prepare_worker``.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers can be set only there
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOP_SIGNALS}
    filters = os.environ.get(_WARNINGS)
    # A rank that ends abruptly leaves semaphores behind; the process that removes them need not report each one.
    os.environ[_WARNINGS] = ",".join(filter(None, (filters, "ignore:resource_tracker:UserWarning")))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop(_WARNINGS)
        if filters is not None:
            os.environ[_WARNINGS] = filters
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare_worker(worker: int) -> None:
    """Make this loader process end when its rank is gone, however that ended, or when a batch cannot be sent.

    torch watches the parent process, which here is the fork server. The server in turn lives as long as any of its
    children, since each of them holds open the pipe whose closing would tell it to end.
    """
    rank = multiprocessing.parent_process()  # the rank that requested this process
    assert rank is not None, "loader processes are not forked from the rank itself"

    def watch() -> None:
        rank.join()
        os._exit(1)

    # The thread that sends batches would only print the error and drop the batch, and the rank would wait for ever.
    queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    threading.Thread(target=watch, name="end with the rank", daemon=True).start()


def _is_death(error: Exception) -> bool:
    """Return whether an error means that a loader process has died, rather than that its work failed."""
    # A worker may die between sending a batch and sending the descriptor of its memory, which needs a connection to it.
    # Errors that a loader process raises itself begin with "Caught".
    lost = isinstance(error, (ConnectionError, FileNotFoundError, EOFError)) and not str(error).startswith("Caught ")
    return lost or _DEAD_WORKER in str(error)


def _end_worker(error: Exception, item: object) -> None:
    """End this loader process, which the rank notices; report the error on standard error."""
    print(f"a loader process cannot send a batch: {explain(error) or error}", file=sys.stderr, flush=True)
    os._exit(1)
