"""A process that fits models for ``fit_in_processes``, one after another, and tells it of every step and epoch."""

import logging
import signal
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from types import TracebackType

import torch

from unimol_scale.common.machine.memory import keep_freed_memory
from unimol_scale.downstream.data.splitting.parts import Fold
from unimol_scale.downstream.finetuning.model.epochs import Epoch
from unimol_scale.downstream.finetuning.one_seed import fit_seed
from unimol_scale.downstream.finetuning.problem.fit_job import FitJob
from unimol_scale.downstream.finetuning.problem.identity import identify_start
from unimol_scale.downstream.finetuning.problem.prepare_problems import prepare_problems
from unimol_scale.downstream.finetuning.problem.seed_problem import SeedProblem
from unimol_scale.downstream.finetuning.processes.messages import Ended, Failed, FittingTask, Message, Stepped
from unimol_scale.errors import RunError, UnimolScaleError


class _ParentIsGoneError(Exception):
    """Nobody listens any more."""


class _Told:
    """Tells the first process how far the training of one model is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def step(self) -> None:
        _send(self._connection, Stepped())

    def epoch(self, epoch: Epoch) -> None:
        _send(self._connection, epoch)


def serve(connection: Connection) -> None:
    """Fit models until the other end closes. A process whose parent is dead ends with its next step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    try:
        task: FittingTask = connection.recv()
        keep_freed_memory()
        torch.set_num_threads(task.threads)
        logging.getLogger("unimol_scale").setLevel(logging.ERROR)  # the parent has said everything already
        problems: dict[Fold | None, SeedProblem] = {}
        while True:
            job: FitJob = connection.recv()
            _send(connection, _outcome(task, job, problems, connection))
    except (EOFError, ConnectionError, _ParentIsGoneError):
        return


def _send(connection: Connection, message: Message) -> None:
    try:
        connection.send(message)
    except ConnectionError as error:
        raise _ParentIsGoneError from error


def _outcome(
    task: FittingTask, job: FitJob, problems: dict[Fold | None, SeedProblem], connection: Connection
) -> Message:
    """Fit a model; ``problems`` are kept for the next one."""
    try:
        if not problems:
            problems.update(_prepared(task))
        problem = replace(problems[job.fold], config=job.config, split=job.split)
        fit_seed(problem, job.seed, None, _Told(connection))
    except _ParentIsGoneError:
        raise
    except (UnimolScaleError, OSError) as error:
        return Failed(error=error)
    except Exception:
        return Failed(error=None, text=traceback.format_exc())
    return Ended()


def _prepared(task: FittingTask) -> dict[Fold | None, SeedProblem]:
    model, hashes, chosen = identify_start(task.config)
    if hashes != task.hashes:
        raise RunError("the data or the pretrained model has changed since this command began; give it again")
    return {each.fold: each for each in prepare_problems(task.config, model, chosen, hashes, None, task.splits)}
