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
from unimol_scale.errors import UnimolScaleError


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
        self._connection.send(Stepped())

    def epoch(self, epoch: Epoch) -> None:
        self._connection.send(epoch)


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
            connection.send(_outcome(task, job, problems, connection))
    except (EOFError, ConnectionError):  # the parent has ended
        return


def _outcome(
    task: FittingTask, job: FitJob, problems: dict[Fold | None, SeedProblem], connection: Connection
) -> Message:
    """Fit a model; ``problems`` are kept for the next one."""
    try:
        if not problems:
            model, hashes, chosen = identify_start(task.config)
            problems.update({each.fold: each for each in prepare_problems(task.config, model, chosen, hashes, None)})
        problem = replace(problems[job.fold], config=job.config, split=job.split)
        fit_seed(problem, job.seed, None, _Told(connection))
    except UnimolScaleError as error:
        return Failed(error=error)
    except (EOFError, ConnectionError):
        raise
    except Exception:
        return Failed(error=None, text=traceback.format_exc())
    return Ended()
