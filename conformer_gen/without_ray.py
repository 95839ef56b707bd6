"""A build's jobs without Ray: one after the other, each in a child process of this one, for builds that are soon done.

Starting Ray takes longer than embedding some hundreds of molecules. Molecules that kill their process, hang in it or
take all its memory are found as on Ray, and what is written is the same to the byte.
"""

import collections
import ctypes
import dataclasses
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from conformer_gen import assemble, watch
from conformer_gen.build_stages import StageWork
from conformer_gen.config import BuildConfig
from conformer_gen.jobs import Job, bisect, hint_path
from conformer_gen.progress import StageProgress
from conformer_gen.selection import Selection, read_selection
from conformer_gen.whole_set import InProcess, Passes
from unimol_scale.errors import UnimolScaleError

FEW_CONFORMERS = 256  # so many take one core about as long as Ray needs to start
DEATHS_ALLOWED = 2
POLL_S = 0.5
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def suits(config: BuildConfig, num_rows: int) -> bool:
    """Return whether a build of so many rows is done sooner without Ray."""
    wants_ray = config.ray_address is not None or config.embed.engine == "nvmolkit"
    return not wants_ray and num_rows * config.embed.conformers <= FEW_CONFORMERS


class InChildren:
    """Runs the jobs of a build in child processes, one at a time."""

    def __init__(self, config: BuildConfig) -> None:
        self._config = config

    @property
    def run_all(self) -> assemble.Runner:
        """What runs the jobs of assembly: here, since they run none of the chemistry that may not return."""
        return map

    def select(self, work: Path) -> Selection:
        """Choose among all curated rows, or return what an earlier run chose."""
        return read_selection(work) or Passes(work=work, config=self._config).run(InProcess())

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
            hint = watch.read_hint(hint_path(work, stage.name, job.piece))
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
        """Run a job in a child; return how many molecules it had, or why it died."""
        # A fork needs no import of RDKit again, and the task need not be pickled.
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        cap = self._config.task_bytes if stage.capped else None
        watched = (self._config.limit_s, cap, os.getpid())
        child = context.Process(target=_in_child, args=(sender, stage, job, work, *watched), daemon=True)
        child.start()
        sender.close()
        try:
            while not receiver.poll(POLL_S):
                progress.tick()
            outcome: int | str | Exception = receiver.recv()
        except EOFError:  # it died without a word
            outcome = "worker_died"
        finally:
            child.kill()
            child.join()
            receiver.close()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends: an orphan would hold the lock of the directory."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # Python has no call for it
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _in_child(
    sender: Connection, stage: StageWork, job: Job, work: Path, limit_s: float, cap: int | None, parent: int
) -> None:
    _die_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):  # not what this program does on them elsewhere
        signal.signal(number, signal.SIG_DFL)
    outcome: int | str | Exception
    try:
        with watch.Watch(hint_path(work, stage.name, job.piece), limit_s, cap) as watched:
            outcome = stage.task(work, job, watched.starting)
    except MemoryError:
        outcome = "out_of_memory"
    except (OSError, UnimolScaleError) as error:
        outcome = error
    except Exception:  # the parent cannot know its class
        outcome = RuntimeError(f"a task of the build failed:\n{traceback.format_exc()}")
    sender.send(outcome)
    sender.close()
