"""Runs many tasks on Ray, a bounded number at a time, and survives their failures. Imports Ray.

``Stage`` runs pieces of molecules and finds a molecule that kills its worker. ``run_all`` runs all other jobs. If a
node
is lost, its tasks run again.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
import ray.exceptions

from conformer_gen.run import watchdog
from conformer_gen.run.jobs import Job, bisect, hint_path
from unimol_scale.common.progress import StageProgress
from unimol_scale.errors import StoreError, UnimolScaleError

# Tasks after which Ray starts a fresh process, because RDKit's memory use creeps up. A fresh process needs two seconds
# for imports: negligible beside twenty tasks of making conformers, but as long as twenty tasks of curation.
CALLS_PER_PROCESS, LIGHT_CALLS_PER_PROCESS = 20, 400
RETRIES = 10  # for one task after lost nodes or exhausted memory
DEATHS_ALLOWED = 2
NODE_LOSS_S = 30.0  # within which Ray notices that a node is gone
POLL_S = 1.0
# The node of the task, or an object that the task needs, is lost.
NODE_LOST = (
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.LocalRayletDiedError,
)

J = TypeVar("J")
R = TypeVar("R")


class InFlight(Generic[J]):
    """Running tasks, up to a limit.

    Args:
        submit: starts the task of a job.
        limit: number of tasks.
    """

    def __init__(self, submit: Callable[[J], ray.ObjectRef], limit: int) -> None:
        self._submit, self._limit = submit, limit
        self._running: dict[ray.ObjectRef, J] = {}

    def __len__(self) -> int:
        return len(self._running)

    def fill(self, jobs: Iterator[J]) -> None:
        """Start tasks while there is room and work."""
        while len(self._running) < self._limit and (job := next(jobs, None)) is not None:
            self._running[self._submit(job)] = job

    def ended(self) -> list[tuple[ray.ObjectRef, J]]:
        """Wait briefly; return the tasks that have ended."""
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=POLL_S)
        return [(reference, self._running.pop(reference)) for reference in ready]


def raise_cause(error: ray.exceptions.RayTaskError) -> None:
    """Reraise errors that the user can fix, as they were raised in the task: file system errors and our own."""
    if isinstance(error.cause, (OSError, UnimolScaleError)):
        raise error.cause from error
    raise error


def _again(jobs: Iterator[J], returned: collections.deque[J]) -> Iterator[J]:
    """Yield returned jobs first, then new ones; pauses when there are neither, and can be resumed."""
    while True:
        if returned:
            yield returned.popleft()
        elif (job := next(jobs, None)) is not None:
            yield job
        else:
            return


class Stage:
    """Runs the jobs of one stage.

    Args:
        name: name of the stage; its hint files lie under it.
        work: work directory of the build.
        limit_s: seconds allowed for one molecule.
        submit: starts the task of a job.
        bury: records a job whose single molecule killed its worker as failed, with the reason.
        live_nodes: returns the names of the nodes that Ray believes to be alive.
    """

    def __init__(
        self,
        name: str,
        work: Path,
        limit_s: float,
        submit: Callable[[Job], ray.ObjectRef],
        bury: Callable[[Job, str], None],
        live_nodes: Callable[[], set[str]] | None = None,
    ) -> None:
        self._name, self._work, self._limit_s = name, work, limit_s
        self._submit, self._bury = submit, bury
        self._live_nodes = live_nodes or _live_nodes
        self._returned: collections.deque[Job] = collections.deque()
        self._suspects: list[tuple[float, Job, str]] = []

    def run(self, jobs: Iterator[Job], max_in_flight: int, progress: StageProgress) -> None:
        """Run all jobs.

        Raises:
            OSError: a task could not write its files.
            StoreError: nodes keep being lost.
        """
        running = InFlight(self._submit, max_in_flight)
        while True:
            running.fill(_again(jobs, self._returned))
            progress.advance(self._judge(time.monotonic()))
            if len(running):
                for reference, job in running.ended():
                    progress.advance(self._settle(reference, job))
            elif self._suspects:
                time.sleep(POLL_S)
            elif not self._returned:
                return
            progress.tick()

    def _settle(self, reference: ray.ObjectRef, job: Job) -> int:
        """Process the result of a task; return how many molecules it finished for good."""
        try:
            finished: int = ray.get(reference)
            return finished
        except NODE_LOST as error:
            self._retry(job, error)
        except ray.exceptions.OutOfMemoryError as error:  # of the node, so not the molecule's fault unless it recurs
            time.sleep(POLL_S)
            if job.retries < RETRIES:
                self._retry(job, error)
            else:
                self._died(job, "out_of_memory")
        except ray.exceptions.WorkerCrashedError as error:
            if self._node_of(job) in {None, *self._live_nodes()}:
                self._died(job, "worker_died")
            else:
                self._retry(job, error)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, MemoryError):
                raise_cause(error)
            self._died(job, "out_of_memory")
        return 0

    def _node_of(self, job: Job) -> str | None:
        hint = watchdog.read_hint(hint_path(self._work, self._name, job.piece))
        return hint.node if hint else None

    def _retry(self, job: Job, error: Exception) -> None:
        if job.retries >= RETRIES:
            raise StoreError(
                f"the same task was lost {RETRIES + 1} times, last by {type(error).__name__}: the cluster is not "
                "stable; repair it and run the same command again to resume"
            ) from error
        self._returned.append(dataclasses.replace(job, retries=job.retries + 1))

    def _died(self, job: Job, why: str) -> None:
        hint = watchdog.read_hint(hint_path(self._work, self._name, job.piece))
        if len(job.positions) > 1:
            self._returned.extend(bisect(job, hint.position if hint else None))
            return
        job = dataclasses.replace(job, deaths=(*job.deaths, hint.node if hint else ""))
        if len(job.deaths) < DEATHS_ALLOWED:
            self._returned.append(job)
            return
        if why == "worker_died" and hint is not None and time.time() - hint.began >= self._limit_s:
            why = "too_slow"
        # On a cluster, a worker's death is reported before that of its node, so wait until a dead node would be known.
        patience = NODE_LOSS_S if len(self._live_nodes()) > 1 else 0.0
        self._suspects.append((time.monotonic() + patience, job, why))

    def _judge(self, now: float) -> int:
        """Record suspects whose nodes survived them as failed, and retry the others; return how many were recorded."""
        due = [suspect for suspect in self._suspects if suspect[0] <= now]
        self._suspects = [suspect for suspect in self._suspects if suspect[0] > now]
        buried = 0
        for _, job, why in due:
            deaths = tuple(node for node in job.deaths if node in {"", *self._live_nodes()})
            if len(deaths) < DEATHS_ALLOWED:
                self._returned.append(dataclasses.replace(job, deaths=deaths))
                continue
            self._bury(job, why)
            buried += 1
        return buried


def _live_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _run_watched(
    function: Callable[..., int], name: str, work: Path, job: Job, limit_s: float, memory: int | None
) -> int:
    """Run ``function(work, job, starting)`` under a watchdog, in a Ray worker process."""
    node = ray.get_runtime_context().get_node_id()
    with watchdog.Watchdog(hint_path(work, name, job.piece), limit_s, memory, node) as watched:
        return function(work, job, watched.starting)


run_watched = ray.remote(num_cpus=1, max_calls=CALLS_PER_PROCESS, max_retries=0)(_run_watched)
run_light_watched = ray.remote(num_cpus=1, max_calls=LIGHT_CALLS_PER_PROCESS, max_retries=0)(_run_watched)


@ray.remote(num_cpus=1, max_calls=CALLS_PER_PROCESS, max_retries=0)  # type: ignore[untyped-decorator]
def _call(function: Callable[[Any], Any], job: Any) -> Any:  # noqa: ANN401 - any picklable job
    return function(job)


def run_all(function: Callable[[J], R], jobs: Iterable[J], *, max_in_flight: int, memory: int) -> Iterator[R]:
    """Yield ``function(job)`` for every job, in order of completion. Running the function twice must be harmless.

    Args:
        function: may hold data that every job needs; it is sent once.
        jobs: read only as fast as tasks can start.
        max_in_flight: tasks at a time.
        memory: bytes that Ray reserves for each task.

    Raises:
        OSError: a task could not write its files.
        StoreError: raised by a task, or a job that keeps being lost.
    """
    source, returned = iter(jobs), collections.deque[J]()
    losses: collections.Counter[J] = collections.Counter()
    call = _call.options(memory=memory)
    shared = ray.put(function)  # once, not with every job
    running: InFlight[J] = InFlight(lambda job: call.remote(shared, job), max_in_flight)
    while True:
        running.fill(_again(source, returned))
        if not len(running):
            return
        for reference, job in running.ended():
            try:
                yield ray.get(reference)
                losses.pop(job, None)
            except ray.exceptions.RayTaskError as error:
                raise_cause(error)
            except (*NODE_LOST, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                losses[job] += 1
                if losses[job] > RETRIES:
                    raise StoreError(f"a task keeps being lost, last by {type(error).__name__}: {job}") from error
                time.sleep(POLL_S)
                returned.append(job)
