"""Fits models in several processes, and shows how far they are. ``fitting_process`` is what each of them does.

Every model is written to its files in the folder of the fine-tuning, as if it had been fitted here: ``fit_seed`` reads
it from there, and whatever was finished before an interruption is kept.
"""

import collections
import contextlib
import multiprocessing
import os
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
from unimol_scale.downstream.finetuning.processes.models_progress import ModelsProgress
from unimol_scale.errors import RunError

_POLL_SECONDS = 0.5
# The program of a process; it takes over this process's module search path.
_PROGRAM = """
import sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:] = connection.recv()
from unimol_scale.common.machine.threads import wait_passively
wait_passively()
from unimol_scale.downstream.finetuning.processes.fitting_process import serve
serve(connection)
"""
Member = tuple[SeedProblem, int]  # what is fitted, and the seed of the model


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


def fit_in_processes(
    config: FinetuneConfig, members: Sequence[Member], count: int, cores: int, forecast: TrainingForecast
) -> None:
    """Fit models, ``count`` of them at a time; each is written as soon as it is finished.

    Args:
        config: settings of the fine-tuning.
        members: what is fitted, and the seed of each model.
        count: number of processes.
        cores: number of cores that they share.
        forecast: told of every step.

    Raises:
        UnimolScaleError: as ``fit_seed`` does in one of the processes. The others are stopped.
        RunError: a process ended without a word.
    """
    first = members[0][0]
    shown = ModelsProgress(
        first.rows.name,
        models=len(members),
        epochs=first.config.train.epochs,
        steps=steps_per_epoch(first.config.train, len(first.split.train)),
        metric=first.metric.name,
    )
    waiting = collections.deque(members)
    with _workers(FittingTask(config=config, threads=max(1, cores // count)), count) as workers, shown:
        for worker in workers:
            _give(worker, waiting)
        while busy := {worker.connection: worker for worker in workers if worker.member is not None}:
            for connection in wait(list(busy), _POLL_SECONDS):
                assert isinstance(connection, Connection)
                worker = busy[connection]
                _take(worker, _received(worker), shown, forecast)
                if worker.member is None:
                    _give(worker, waiting)


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
        assert worker.member is not None, "idle processes are not waited for"
        problem, seed = worker.member
        status = worker.process.wait()
        raise RunError(
            f"{problem.name_of(seed)}: its process ended (status {status}), perhaps because memory was full. Models "
            "that are finished are kept: the same command goes on. --models-at-once 1 needs the least memory"
        ) from None
    return message


def _take(worker: _Worker, message: Message, shown: ModelsProgress, forecast: TrainingForecast) -> None:
    """Tell what a process says."""
    assert worker.member is not None
    problem, seed = worker.member
    name = problem.name_of(seed)
    match message:
        case Stepped():
            shown.step()
            forecast.step()
        case Epoch():
            shown.epoch(name, message)
        case Ended():
            shown.end(name)
            worker.member = None
        case Failed():
            if message.error is not None:
                raise message.error
            raise RuntimeError(f"{name}: its process failed:\n{message.text}")
