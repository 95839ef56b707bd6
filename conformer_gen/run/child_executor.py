"""Runs a build's jobs without Ray, one after another in a child process, for small builds.

Starting Ray takes longer than making a few hundred conformers. Molecules that kill the child, hang or exhaust memory
are found as on Ray, and the output is identical to the byte. The child is a fresh interpreter: a fork of a process with
threads, such as those of Ray or PyTorch, could wait for ever on a lock held by a thread that the fork does not have.
"""

import collections
import ctypes
import dataclasses
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from conformer_gen.config import BuildConfig
from conformer_gen.report.progress_samples import SampledProgress
from conformer_gen.run import watchdog
from conformer_gen.run.in_process_executor import InProcessExecutor
from conformer_gen.run.jobs import Job, StageWork, bisect, hint_path
from conformer_gen.run.watchdog import Starting
from conformer_gen.run.worker import ConformerGenerator
from unimol_scale.common.progress import StageProgress
from unimol_scale.errors import StoreError, UnimolScaleError

FEW_CONFORMERS = 256  # one core makes so many in about the time Ray needs to start
DEATHS_ALLOWED = 2
POLL_S = 0.5
READY = "ready"
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
# The child's program; it takes over this process's module search path.
CHILD = """
import sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:], parent = connection.recv()
from conformer_gen.run.child_executor import serve
serve(connection, parent)
"""


def suits(config: BuildConfig, num_rows: int, generator: ConformerGenerator) -> bool:
    """Return whether a build of this size finishes sooner in a child, which must be able to import the generator."""
    wants_ray = config.ray_address is not None or config.conformers.engine == "nvmolkit"
    return not wants_ray and num_rows * config.conformers.count <= FEW_CONFORMERS and _is_importable(generator)


def _is_importable(generator: ConformerGenerator) -> bool:
    try:
        pickle.dumps(generator)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return getattr(generator, "__module__", "") != "__main__"


class ChildExecutor(InProcessExecutor):
    """Runs the jobs of a build in a child process, one at a time; a child that dies is replaced.

    Selection and assembly run in this process, since they do no chemistry that might hang. Use it as a context manager;
    the child ends with the context.
    """

    def __init__(self, config: BuildConfig) -> None:
        super().__init__(config, SampledProgress)
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ChildExecutor":
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    def _start(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        arguments = [sys.executable, "-c", CHILD, str(theirs.fileno())]
        self._child = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        self._connection.send((sys.path, os.getpid()))
        self._ready = False  # imports take the child a second; meanwhile this process continues

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._connection.close()
            self._child = None

    def run_stage(self, stage: StageWork, jobs: Iterator[Job], work: Path, progress: StageProgress) -> None:
        """Run all jobs of a stage.

        Raises:
            OSError: files cannot be written.
        """
        waiting = collections.deque(jobs)
        while waiting:
            job = waiting.popleft()
            outcome = self._run(stage, job, work, progress)
            if isinstance(outcome, int):
                progress.advance(outcome)
                continue
            hint = watchdog.read_hint(hint_path(work, stage.name, job.piece))
            if len(job.positions) > 1:
                waiting.extendleft(reversed(bisect(job, hint.position if hint else None)))
                continue
            job = dataclasses.replace(job, deaths=(*job.deaths, ""))
            if len(job.deaths) < DEATHS_ALLOWED:
                waiting.appendleft(job)
                continue
            slow = hint is not None and time.time() - hint.began >= self._config.limit_s
            stage.bury(job, "too_slow" if slow and outcome == "worker_died" else outcome)
            progress.advance(1)

    def _run(self, stage: StageWork, job: Job, work: Path, progress: StageProgress) -> int | str:
        """Run a job in the child; return its number of molecules, or why the child died."""
        if self._child is None:
            self._start()
        self._await_ready()
        cap = self._config.task_bytes if stage.capped else None
        try:
            self._connection.send(ChildTask(stage.name, stage.task, job, work, self._config.limit_s, cap))
            while not self._connection.poll(POLL_S):
                progress.tick()
            outcome: int | str | Exception = self._connection.recv()
        except (EOFError, ConnectionError):  # it died without reporting
            outcome = "worker_died"
        except BaseException:
            self._end()
            raise
        if isinstance(outcome, str):
            self._end()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _await_ready(self) -> None:
        if self._ready:
            return
        try:
            self._ready = self._connection.recv() == READY
        except (EOFError, ConnectionError) as error:
            raise StoreError(
                "the process that makes the conformers did not start; its error is printed above"
            ) from error


class ChildTask(NamedTuple):
    """An order to the child."""

    stage: str
    task: Callable[[Path, Job, Starting], int]
    job: Job
    work: Path
    limit_s: float
    memory: int | None


def serve(connection: Connection, parent: int) -> None:
    """Carry out orders until this process is killed."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    connection.send(READY)
    while True:
        try:
            order: ChildTask = connection.recv()
        except EOFError:
            return
        except Exception:  # for example, a module of the generator is missing
            connection.send(RuntimeError(f"a task of the build could not be received:\n{traceback.format_exc()}"))
            continue
        connection.send(_outcome(order))


def _outcome(order: ChildTask) -> int | str | Exception:
    hint = hint_path(order.work, order.stage, order.job.piece)
    try:
        with watchdog.Watchdog(hint, order.limit_s, order.memory) as watched:
            return order.task(order.work, order.job, watched.starting)
    except MemoryError:
        return "out_of_memory"
    except (OSError, UnimolScaleError) as error:
        return error
    except Exception:  # the parent may not know its class
        return RuntimeError(f"a task of the build failed:\n{traceback.format_exc()}")


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, since nobody would use its results."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # Python has no function for this
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
