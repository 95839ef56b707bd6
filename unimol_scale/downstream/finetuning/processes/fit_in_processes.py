"""Fits models in several processes, and shows how far they are. ``fitting_process`` is what each of them does.

Every model is written to its files in the folder of the fine-tuning, as if it had been fitted here: ``fit_seed`` reads
it from there, and whatever was finished before an interruption is kept.
"""

import collections
import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from unimol_scale.common.machine.threads import NUM_THREADS
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.batches import steps_per_epoch
from unimol_scale.downstream.finetuning.model.epochs import Epoch
from unimol_scale.downstream.finetuning.problem.fit_job import FitJob
from unimol_scale.downstream.finetuning.problem.seed_problem import SeedProblem
from unimol_scale.downstream.finetuning.problem.training_forecast import TrainingForecast
from unimol_scale.downstream.finetuning.processes.messages import Ended, Failed, FittingTask, Message, Stepped
from unimol_scale.downstream.finetuning.processes.models_at_once import Processes
from unimol_scale.downstream.finetuning.processes.models_progress import Length, ModelsProgress
from unimol_scale.errors import LostProcessError
from unimol_scale.model.native.library import load_kernels

_POLL_SECONDS = 0.5
# The program of a process; it takes over this process's module search path, and nothing of the current folder before.
_PROGRAM = """
import sys
sys.path[:] = filter(None, sys.path)
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:] = connection.recv()
from unimol_scale.common.machine.threads import wait_passively
wait_passively()
from unimol_scale.downstream.finetuning.processes.fitting_process import serve
serve(connection)
"""
Member = tuple[SeedProblem, int]  # what is fitted, and the seed of the model
_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Worker:
    """A process.

    Attributes:
        process: the process.
        connection: to it.
        member: what it fits now; None: nothing.
    """

    process: subprocess.Popen[bytes]
    connection: Connection
    member: Member | None = None

    @property
    def name(self) -> str:
        """What messages call the model that is fitted."""
        assert self.member is not None
        problem, seed = self.member
        return problem.name_of(seed)


def fit_in_processes(
    config: FinetuneConfig, members: Sequence[Member], processes: Processes, forecast: TrainingForecast
) -> None:
    """Fit models, several of them at a time; each is written as soon as it is finished.

    Once a model has failed no other is begun, but those in training are finished before the error is raised.

    Args:
        config: settings of the fine-tuning.
        members: what is fitted, and the seed of each model.
        processes: how many of them there are.
        forecast: told of every step.

    Raises:
        UnimolScaleError: as ``fit_seed`` does in one of the processes.
        LostProcessError: a process ended without a word.
        OSError: a file cannot be read or written.
    """
    load_kernels()
    first = members[0][0]
    task = FittingTask(
        config=config,
        hashes=first.hashes,
        splits=tuple({each.fold: (each.fold, each.split) for each, _ in members}.values()),
        threads=processes.threads,
    )
    lengths = {problem.name_of(seed): _length(problem) for problem, seed in members}
    shown = ModelsProgress(first.rows.name, lengths, first.metric.name)
    waiting, errors = collections.deque(members), list[Exception]()
    with _workers(task, min(processes.count, len(members))) as workers, shown:
        for worker in workers:
            _give(worker, waiting)
        while busy := {worker.connection: worker for worker in workers if worker.member is not None}:
            for connection in wait(list(busy), _POLL_SECONDS):
                assert isinstance(connection, Connection)
                worker = busy[connection]
                try:
                    _take(worker, _received(worker), shown, forecast)
                except Exception as error:
                    others = sum(one.member is not None for one in workers) > 1
                    _log.error(f"{worker.name} failed{'; the other models in training are finished first' * others}")
                    errors.append(error)
                    waiting.clear()
                    worker.member = None
                if worker.member is None:
                    _give(worker, waiting)
    if errors:
        raise errors[0]


def _length(problem: SeedProblem) -> Length:
    train = problem.config.train
    return Length(epochs=train.most_epochs, steps=steps_per_epoch(train, len(problem.split.train)))


@contextlib.contextmanager
def _workers(task: FittingTask, count: int) -> Iterator[list[_Worker]]:
    """Start processes, and end them on leaving."""
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            workers.append(_started(task))
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
            worker.connection.close()


def _started(task: FittingTask) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    with contextlib.closing(theirs):
        environment = {**os.environ, NUM_THREADS: str(task.threads)}
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    ours.send(sys.path)
    ours.send(task)
    return _Worker(process=process, connection=ours)


def _give(worker: _Worker, waiting: collections.deque[Member]) -> None:
    """Give a process the next model, if there is one."""
    if not waiting:
        return
    worker.member = waiting.popleft()
    problem, seed = worker.member
    job = FitJob(fold=problem.fold, config=problem.config, split=problem.split, seed=seed)
    with contextlib.suppress(BrokenPipeError):  # it is dead, which _received reports
        worker.connection.send(job)


def _received(worker: _Worker) -> Message:
    try:
        message: Message = worker.connection.recv()
    except (EOFError, ConnectionError):
        status = worker.process.wait()
        memory = " (memory was full, perhaps: --models-at-once 1 needs the least)" if status == -signal.SIGKILL else ""
        raise LostProcessError(
            f"{worker.name}: its process ended with status {status}{memory}. Models that are finished are kept: the "
            "same command goes on"
        ) from None
    return message


def _take(worker: _Worker, message: Message, shown: ModelsProgress, forecast: TrainingForecast) -> None:
    """Tell what a process says, or raise the error that it met."""
    match message:
        case Stepped():
            shown.step(worker.name)
            forecast.step()
        case Epoch():
            shown.epoch(worker.name, message)
        case Ended():
            shown.end(worker.name)
            worker.member = None
        case Failed():
            if message.error is not None:
                raise message.error
            raise RuntimeError(f"{worker.name}: its process failed:\n{message.text}")
